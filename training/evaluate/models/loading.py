"""Published tensors into a network: names and shapes are compared before anything is allocated."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sounding.utils.files import hash_file
from sounding.utils.libraries import importing
from sounding.utils.messages import printable
from sounding.weights.pytorch import load_pytorch

Network = TypeVar("Network", bound=nn.Module)
CLASSES = "class_labels_indices.csv"  # AudioSet's file
WEIGHTS = (".safetensors", ".bin")  # of files in a folder


def fitted(build: Callable[[], Network], state: dict[str, Tensor], computed: tuple[str, ...] = ()) -> Network:
    """The network that `build` makes, with the tensors of `state` in float32, for inference.

    It is built on PyTorch's "meta" device, so that sizes out of a file cost no memory; buffers that are not in the
    state have to name their device. Where a library's network computes tensors of its own, `computed` are endings of
    their names: they are not looked for, and the network is built anew once the others fit.

    Raises:
        ValueError: a tensor is missing, foreign, or of another shape.
    """
    with torch.device("meta"):
        network = build()
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(computed)}
    for names, is_what in ((wanted.keys() - state.keys(), "missing"), (state.keys() - wanted.keys(), "not its own")):
        if names:
            raise ValueError(f"{printable(min(names), 80)} is {is_what}, as are {len(names) - 1} others")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, but {tuple(value.shape)} is expected")
    if computed:
        network = build()
    tensors = {name: state[name].to(value.dtype) for name, value in wanted.items()}
    network.load_state_dict(tensors, strict=not computed, assign=True)
    return network.eval().requires_grad_(False)


def read_pretrained(
    folder: Path, model: str, processor: str, called: str, advice: str, **options: Any
) -> tuple[Any, Any]:
    """A network for inference and its processor, from a folder that transformers' `save_pretrained` wrote.

    Nothing is downloaded, and no code of the folder is run. Where there are no safetensors, a `pytorch_model.bin` is
    looked through first, and then read by `torch.load(weights_only=True)`.

    Args:
        folder: of both.
        model: name of the network's class in transformers, or of one of its Auto classes.
        processor: likewise, of the processor or tokenizer.
        called: what a message calls such a folder's content.
        advice: what a message tells to give instead.
        options: for the network's `from_pretrained`.

    Raises:
        ValueError: another model, a damaged folder, or one without all tensors.
    """
    with importing("transformers"):
        import transformers

    def read(name: str, **more: Any) -> Any:
        # Auto classes that are not told ask on the terminal whether to run code of the folder.
        told = {"trust_remote_code": False} if name.startswith("Auto") else {}
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True, **told, **more)

    try:
        reader = read(processor)
        safe = _has_safetensors(folder)
        network, report = read(model, output_loading_info=True, use_safetensors=safe, **options)
        if report["missing_keys"]:
            raise ValueError(f"{min(report['missing_keys'])} is missing")
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        said = printable(" ".join(str(error).split()), 300)
        raise ValueError(f"{folder} is no folder of {called} ({said}); give {advice}.") from None
    return network.eval(), reader


def _has_safetensors(folder: Path) -> bool:
    """Whether a folder has its weights as safetensors, else as one PyTorch file that holds nothing but weights.

    Raises:
        ValueError: neither.
    """
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return True
    file = folder / "pytorch_model.bin"
    if not file.is_file():
        raise ValueError("there is neither model.safetensors nor pytorch_model.bin")
    try:
        load_pytorch(file)  # bounds and harmlessness; transformers reads it once more by itself
    except ValueError as error:
        raise ValueError(f"{file.name} {error}") from None
    return False


def audioset_classes(beside: Path, count: int) -> tuple[str, ...]:
    """Names of `count` classes by AudioSet's CSV in the same folder as the weights, or numbers where there is none.

    Raises:
        ValueError: the CSV does not name so many classes.
    """
    file = beside.parent / CLASSES
    if not file.is_file():
        return tuple(map(str, range(count)))
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            names = {int(row["index"]): row["display_name"] for row in csv.DictReader(lines)}
        if len(names) != count:
            raise ValueError(f"it has {len(names)}")
        return tuple(names[number] for number in range(count))
    except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
        raise ValueError(
            f"{file} does not name {count} classes ({printable(error, 100)}); give AudioSet's {CLASSES}."
        ) from None


def digest(*paths: Path) -> str:
    """The first letters of the files' SHA-256, so that features of two models are never taken for each other.

    Of a folder, its files of weights count.
    """
    found = hashlib.sha256()
    files = [sorted(path.iterdir()) if path.is_dir() else [path] for path in paths]
    for path in chain.from_iterable(files):
        if path not in paths and path.suffix not in WEIGHTS:
            continue
        hash_file(path, found)
    return f"sha256 {found.hexdigest()[:12]}"
