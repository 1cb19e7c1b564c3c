"""Checkpoint files: one `.safetensors` with the weights of all parts and the configuration in its header.

Tensor names begin with their part (`unet.*`, `vae.*`, ...). Files are read and written here, and nothing in them is
ever unpickled; `loading` makes modules of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import SoundingConfig
from .networks.meta import finite
from .utils.files import replacing
from .utils.libraries import importing
from .utils.messages import printable

CONFIG_KEY = "sounding.config"
HASH = "modelspec.hash_sha256"
STARTER, STARTER_NAMES = "starter", "starter-names"  # the checkpoints that come with the pack
MOST_HEADER = 16 * 2**20  # bytes; the paper's model has 0.2 MB
MOST_TENSORS = 50_000
MOST_NAME = 500  # characters of a tensor's name
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


class CheckpointError(ValueError):
    """A file that is not a complete Sounding Objects checkpoint; the message says what to do."""


@dataclass(frozen=True)
class Header:
    """The description of a checkpoint, read without its weights."""

    path: Path
    config: SoundingConfig
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    stamp: tuple[int, int]  # the file's modification time in ns and its size, since weights are read later

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the file has weights for."""
        return tuple(sorted({name.partition(".")[0] for name in self.shapes}))


def boxed_path(name: str = STARTER) -> Path:
    """The path of a checkpoint that comes with the pack: `STARTER` or `STARTER_NAMES`.

    Raises:
        CheckpointError: it is missing.
    """
    package = Path(__file__).parent
    for folder in (package.parent / "models", package):
        if (path := folder / f"{name}.safetensors").is_file():
            return path
    raise CheckpointError(
        f"The {name} checkpoint is missing from {package.parent / 'models'}; reinstall the pack or name another one."
    )


def resolve(model: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint, which may be given as "starter" or "starter-names".

    Raises:
        CheckpointError: no such file.
    """
    if str(model) in (STARTER, STARTER_NAMES):
        return boxed_path(str(model))
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
                    f"it has tensors of the type {min(unknown)}, but one of {', '.join(DTYPES)} is expected"
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
    return Header(path, config, metadata, shapes, dtypes, stamp)


def check_header_size(path: Path) -> None:
    """Check the length that a .safetensors states for its header, before anything reads it.

    Raises:
        ValueError: it is longer than any model's.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"its header states a length of {length} bytes, but at most {MOST_HEADER} are expected")


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = printable(" ".join(str(error).split()), 200)  # it may quote names out of the file
    return CheckpointError(
        f"{path} is not a readable .safetensors file ({reason}); it is cut off or another kind of file, so download or "
        "export it again."
    )


def read_tensors(header: Header, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors `names` of a checkpoint, in the file's own precision.

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


def write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    config: SoundingConfig,
    *,
    dtype: torch.dtype,
    title: str | None = None,
    description: str = "",
    licence: str = "",
    record: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint in one step: a crash leaves the old file as it was. See `loading.Pretrained.save_pretrained`.

    Raises:
        CheckpointError: a weight that is not finite in `dtype`.
        FullDiskError: no room.
    """
    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in state.items()
    }
    for name, value in tensors.items():
        if value.is_floating_point() and not finite(value):
            raise CheckpointError(f"{name!r} is not finite as {dtype}, so nothing was written; save as float32.")
    described = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "sounding-objects",
        "modelspec.implementation": "sounding-objects",
        "modelspec.title": title or config.name,
        "modelspec.description": description,
        "modelspec.license": licence,
    }
    _write(path, tensors, config, described, record or {})


def rewrite(
    header: Header, tensors: dict[str, Tensor], config: SoundingConfig, out: str | os.PathLike[str] | None = None
) -> None:
    """Write a checkpoint with other tensors or another configuration; the rest of its header stays.

    Args:
        header: of the checkpoint.
        tensors: all of them, in the precision that the file is to have.
        config: of the model that they belong to.
        out: where to write; without it the checkpoint itself, in one step.
    """
    _write(out or header.path, tensors, config, header.metadata, {})


def _write(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    config: SoundingConfig,
    described: Mapping[str, str],
    record: Mapping[str, str],
) -> None:
    from safetensors.torch import save_file

    metadata = {**described, CONFIG_KEY: config.to_json(), HASH: digest(tensors), **record}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of all tensors, in name order."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return "0x" + state.hexdigest()


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parts, sizes and configuration of a checkpoint, as `sounding info` prints them.

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
        "training": {k: v for k, v in header.metadata.items() if k.startswith("training.")},
    }
