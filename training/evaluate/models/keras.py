"""Weights out of Keras' HDF5 files, plain or in gzip: layers with tensors, in the order that Keras itself goes by.

Nothing in such a file is executed, and its description of the model is not read. Data may lie in this file only:
links to others, virtual and packed data, which Keras does not write, are refused.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.utils.libraries import importing
from sounding.utils.messages import printable
from sounding.weights import WeightsError

HDF5, GZIP = b"\x89HDF\r\n\x1a\n", b"\x1f\x8b"
MOST_BYTES = 512 * 2**20  # unpacked
MOST_LAYERS = 1000
MEND = "get the file again from its publisher"


def is_keras(path: Path) -> bool:
    """Whether a file begins as HDF5 or gzip does."""
    with path.open("rb") as file:
        return file.read(8).startswith((HDF5, GZIP))


def read_keras(path: Path) -> list[dict[str, Tensor]]:
    """The tensors of each layer that has some, by the last part of their names ("kernel", "gamma", ...).

    Raises:
        WeightsError: not such a file, damaged, or too large.
    """
    with importing("h5py"):
        import h5py

    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
        if data.startswith(GZIP):
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(MOST_BYTES + 1)
        if not data.startswith(HDF5) or len(data) > MOST_BYTES:
            raise ValueError(f"it is no HDF5 of at most {MOST_BYTES} bytes")
        with h5py.File(io.BytesIO(data), "r") as file:
            layers, left = [], len(data)
            for name in _names(file.attrs["layer_names"], MOST_LAYERS):
                layers.append(_layer(file, _text(name), left))
                left -= sum(value.nbytes for value in layers[-1].values())
    except (OSError, EOFError, zlib.error, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = printable(" ".join(str(error).split()), 200)
        raise WeightsError(f"{path} is not a readable file of Keras' weights ({said}); {MEND}.") from None
    found = [layer for layer in layers if layer]
    if not found:
        raise WeightsError(f"{path} has no tensors, but Keras' weights are expected; {MEND}.")
    return found


def _layer(file: Any, name: str, left: int) -> dict[str, Tensor]:
    """The tensors of one layer, of at most `left` bytes."""
    group = _own(file, name)
    tensors: dict[str, Tensor] = {}
    for weight in map(_text, _names(group.attrs["weight_names"], 16)):
        data = _own(group, weight)
        if data.is_virtual or data.external or data.chunks or data.dtype.kind != "f":
            raise ValueError(f"{weight} is not plain floating-point data")
        left -= data.nbytes
        if left < 0:
            raise ValueError("tensors are larger than the file, taken together")
        tensors[weight.rpartition("/")[2].partition(":")[0]] = torch.from_numpy(data[()]).float()
    return tensors


def _own(group: Any, path: str) -> Any:
    """What lies at a path below a group, by way of hard links alone."""
    import h5py

    for part in path.strip("/").split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is missing, or a link")
        group = group[part]
    return group


def _names(values: Any, most: int) -> list[Any]:
    names = list(values)
    if len(names) > most:
        raise ValueError(f"{len(names)} names are more than {most}")
    return names


def _text(name: Any) -> str:
    text = name.decode() if isinstance(name, bytes) else str(name)
    if not text.isprintable():
        raise ValueError("a name is not printable")
    return text
