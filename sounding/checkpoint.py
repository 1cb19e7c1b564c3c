"""One `.safetensors` in, one out: the weights of all parts, with the configuration in the header.

Tensor names carry their part (`unet.*`, `vae.*`, ...). Loading is strict and nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config import GenerationConfig, SoundingConfig
from .networks.meta import OwnRandomness, finite, fitted, without_weights
from .networks.overflow import part_dtype
from .utils.fields import from_dict
from .utils.files import replacing
from .utils.libraries import importing, library_error, missing_library
from .utils.plain_text import printable

if TYPE_CHECKING:
    from .model import SoundingModel

CONFIG_KEY = "sounding.config"
HASH = "modelspec.hash_sha256"
STARTER = "starter"
MOST_COMPANION = 2**20  # bytes
MOST_HEADER = 16 * 2**20  # bytes; the paper's model has 0.2 MB
MOST_TENSORS = 50_000
MOST_NAME = 500  # characters of a tensor's name
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


class CheckpointError(ValueError):
    """A file that is not a complete Sounding Objects checkpoint; the message says what to do."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself without its weights being read."""

    path: Path
    config: SoundingConfig
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    stamp: tuple[int, int]  # the file's time of change in ns, and its size: weights are read later than this

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the file has weights for."""
        return tuple(sorted({name.partition(".")[0] for name in self.shapes}))


def starter_path() -> Path:
    """The checkpoint in the box.

    Raises:
        CheckpointError: it is not there.
    """
    package = Path(__file__).parent
    for path in (package.parent / "models" / "starter.safetensors", package / "starter.safetensors"):
        if path.is_file():
            return path
    raise CheckpointError(
        f"The starter is missing from {package.parent / 'models'}; reinstall the pack or name another checkpoint."
    )


def resolve(model: str | os.PathLike[str]) -> Path:
    """ "starter" or a path to a checkpoint's path.

    Raises:
        CheckpointError: no such file.
    """
    if str(model) == STARTER:
        return starter_path()
    path = Path(model)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give 'starter' or the path of a .safetensors checkpoint.")
    return path


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read a checkpoint's configuration and tensor shapes.

    Raises:
        CheckpointError: unreadable, cut off, another kind of model, or from a newer version.
    """
    with importing("safetensors"):
        from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        stamp = _stamp(path)
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            if any(len(name) > MOST_NAME for name in names):
                raise ValueError(f"a tensor's name is longer than {MOST_NAME} letters")
            if len(names) > MOST_TENSORS:
                raise ValueError(f"it has {len(names)} tensors, but at most {MOST_TENSORS} are expected")
            slices = {name: file.get_slice(name) for name in names}
            shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
            dtypes = {name: str(piece.get_dtype()) for name, piece in slices.items()}
            if unknown := set(dtypes.values()) - set(DTYPES):
                raise ValueError(
                    f"it has numbers of the kind {min(unknown)}, but one of {', '.join(DTYPES)} is expected"
                )
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if CONFIG_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a .safetensors file of another kind of model (no {CONFIG_KEY} in its header); give a "
            "Sounding Objects checkpoint, or make one with `python -m training run`."
        )
    try:
        config = SoundingConfig.from_json(metadata[CONFIG_KEY])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    config = with_companion(config, path, metadata)
    return Header(path, config, metadata, shapes, dtypes, stamp)


def check_header_size(path: Path) -> None:
    """Look at how long a .safetensors says its header is, before anything reads it.

    Raises:
        ValueError: longer than any model's.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"its header is said to have {length} bytes, but at most {MOST_HEADER} are expected")


def with_companion(config: SoundingConfig, path: Path, metadata: dict[str, str]) -> SoundingConfig:
    """Migration of the starter from before checkpoints listed the names that they know, by a small file beside it.

    `starter.json` holds that list, and the thresholds measured with it, for the weights that it names; beside others
    it says nothing. Weights that are trained on carry the list in their own header.
    """
    companion = path.with_suffix(".json")
    if config.vocabulary or HASH not in metadata or not companion.is_file():
        return config
    try:
        if companion.stat().st_size > MOST_COMPANION:
            return config
        said = json.loads(companion.read_text(encoding="utf-8"))
        if not isinstance(said, dict) or said.get(HASH) != metadata[HASH]:
            return config
        generation = from_dict(GenerationConfig, dataclasses.asdict(config.generation) | said["generation"])
        return dataclasses.replace(config, generation=generation, vocabulary=tuple(said["vocabulary"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return config  # not ours, though it may look like it


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    said = printable(" ".join(str(error).split()), 200)  # names out of the file are in it
    return CheckpointError(
        f"{path} is not a readable .safetensors file ({said}); it is cut off or another kind of file, so download or "
        "export it again."
    )


def load_model(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    parts: Iterable[str] | None = None,
) -> SoundingModel:
    """Build the model a checkpoint describes and fill it.

    Args:
        path: the file.
        dtype: of the weights in memory; float32 without it, whatever the file holds.
        device: where the weights go.
        parts: which to read, all that the file has without it; the others stay on disk, see `read_parts`.

    Raises:
        CheckpointError: see `read_header`; or a tensor is missing, foreign, of another shape or kind, or not finite.
    """
    header = read_header(path)
    model = empty_model(header)
    read_parts(model, header, header.parts if parts is None else parts, dtype=dtype or torch.float32, device=device)
    return model


def empty_model(header: Header) -> SoundingModel:
    """The model that a checkpoint describes, every part still on disk; `read_parts` fills it.

    Raises:
        CheckpointError: a model that cannot be built, or one that the file's tensors do not belong to.
    """
    from .model import SoundingModel

    config = header.config
    blocks = sum(count for part, count in block_counts(config).items() if part in header.parts)
    if blocks > len(header.shapes):  # each has weights; building thousands that are not there takes long
        raise CheckpointError(
            f"{header.path} describes {blocks} layers, but has only {len(header.shapes)} tensors; the configuration is "
            "damaged or edited, export the file again."
        )
    try:
        with torch.device("meta"):  # sizes that the file does not confirm cost nothing here
            skeleton = SoundingModel(config).state_dict()
    except (ValueError, RuntimeError, TypeError, ArithmeticError, AssertionError, LookupError) as error:
        if (missing := missing_library(error)) is not None:
            raise library_error(missing.name or "A library", error) from error
        raise CheckpointError(
            f"{header.path}: the model that its configuration describes cannot be built ({error}); the configuration "
            "is damaged or edited, export the file again."
        ) from None
    _check_tensors(header, {name: tuple(value.shape) for name, value in skeleton.items()})
    with without_weights(), OwnRandomness():
        return SoundingModel(config).requires_grad_(False)


def block_counts(config: SoundingConfig) -> dict[str, int]:
    """Blocks of each part, all of which have weights of their own; the patch tower's go by its name."""
    query, vocoder, segmenter = config.query, config.vocoder, config.segmenter
    return {
        "query": sum(query.depths) if query.tower == "clap_audio" else query.layers,
        "vae": 2 * config.vae.layers * len(config.vae.channels),
        "unet": 2 * config.unet.layers * len(config.unet.channels),
        "vocoder": 2 * len(vocoder.rates) * len(vocoder.kernels) * len(vocoder.dilations),
        "segmenter": sum(segmenter.blocks) if segmenter else 0,
    }


def read_parts(
    model: SoundingModel, header: Header, parts: Iterable[str], *, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Read the weights of some parts of an `empty_model`, each straight to its place.

    Weights that need no other precision and stay on the CPU are used where the file lies in memory (a private map:
    what is written to them never reaches the file, which must not be overwritten in place meanwhile; `save_model`
    puts a new one in its place). Otherwise no more than one part's share of the file is there beside the result.

    Raises:
        CheckpointError: the file was changed after `header`, is damaged, or has weights that are not finite numbers.
        ValueError: an unknown part.
    """
    for part in parts:
        if part not in header.parts:
            raise ValueError(f"parts has {part!r}, but the file has {', '.join(header.parts)}; name some of these.")
        module, kind = getattr(model, part), part_dtype(part, dtype)
        expected = module.state_dict()
        weights = read_tensors(header, [f"{part}.{name}" for name in expected])
        weights = {name.removeprefix(f"{part}."): value for name, value in weights.items()}
        for name, like in expected.items():
            try:
                weights[name] = fitted(weights[name], like, kind).to(device)
            except ValueError as error:
                raise CheckpointError(f"{header.path}: '{part}.{name}' {error}.") from None
        module.load_state_dict(weights, assign=True)
        nn.Module.to(module, device=device, dtype=kind)  # buffers that are not in the file
        module.requires_grad_(False)


def read_tensors(header: Header, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of a checkpoint, as they lie in it.

    Raises:
        CheckpointError: the file was changed after `header`, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if _stamp(header.path) != header.stamp:
            raise CheckpointError(f"{header.path} was changed while it was in use; load it again.")
        with safe_open(header.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(header.path, error) from None


def _check_tensors(header: Header, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare names and shapes; a part that is missing as a whole is named as such."""
    missing = sorted(expected.keys() - header.shapes.keys())
    foreign = sorted(header.shapes.keys() - expected.keys())
    parts = {name.split(".")[0] for name in missing}
    gone = sorted(part for part in parts if not any(name.startswith(f"{part}.") for name in header.shapes))
    if gone:
        where = "; ".join(f"{part}: {header.config.absent.get(part, 'export it with its weights')}" for part in gone)
        raise CheckpointError(f"{header.path} has no weights for {', '.join(gone)}, but they are needed ({where}).")
    if missing:
        raise CheckpointError(
            f"{header.path} lacks {len(missing)} tensors, the first is {missing[0]!r}; the file is not complete, "
            "export it again."
        )
    if foreign:
        raise CheckpointError(
            f"{header.path} has {len(foreign)} tensors that its configuration does not know, the first is "
            f"{foreign[0]!r}; it was made for another version or edited, export it again."
        )
    for name, shape in expected.items():
        if header.shapes[name] != shape:
            raise CheckpointError(
                f"{header.path}: {name!r} has shape {header.shapes[name]}, but {shape} is expected; weights and "
                "configuration do not belong together."
            )


def save_model(
    model: SoundingModel,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float16,
    title: str | None = None,
    description: str = "",
    licence: str = "",
    record: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint in one step: a crash leaves the old file as it was.

    Args:
        dtype: of floating-point weights in the file.
        title, description, licence: for the `modelspec.*` fields that ComfyUI users' tools show.
        record: more for the header: how it was trained.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        if value.is_floating_point() and not finite(value):
            raise CheckpointError(f"{name!r} is not finite as {dtype}, so nothing was written; save as float32.")
    metadata = {
        CONFIG_KEY: model.config.to_json(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "sounding-objects",
        "modelspec.implementation": "sounding-objects",
        "modelspec.title": title or model.config.name,
        "modelspec.description": description,
        "modelspec.license": licence,
        HASH: digest(tensors),
        **(record or {}),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def rewrite(
    header: Header, tensors: dict[str, Tensor], config: SoundingConfig, out: str | os.PathLike[str] | None = None
) -> None:
    """Write a checkpoint with other tensors or another configuration; what else its header says stays.

    Args:
        header: of the checkpoint.
        tensors: all of them, as they are to lie in the file.
        config: that they belong to.
        out: where to write; without it the checkpoint itself, in one step.
    """
    from safetensors.torch import save_file

    metadata = {**header.metadata, CONFIG_KEY: config.to_json(), HASH: digest(tensors)}
    with replacing(out or header.path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of all tensors, in name order."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return "0x" + state.hexdigest()


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parts, sizes and configuration of a checkpoint, for people and for `--json`.

    Raises:
        CheckpointError: see `read_header`.
    """
    header = read_header(path)
    parts: dict[str, int] = {}
    for name, shape in header.shapes.items():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + torch.Size(shape).numel()
    return {
        "path": str(header.path),
        "bytes": header.path.stat().st_size,
        "parameters": parts,
        "dtypes": sorted(set(header.dtypes.values())),
        "config": json.loads(json.dumps(dataclasses.asdict(header.config))),
        "modelspec": {k: v for k, v in header.metadata.items() if k.startswith("modelspec.")},
    }
