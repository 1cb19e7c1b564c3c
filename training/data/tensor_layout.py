"""Where tensors lie in a safetensors file, so that one of them, or one row of one, is read without the rest.

safetensors' own `safe_open` does the same for files, but not for members of a tar.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .shard_format import parse_json

LENGTH = 8  # bytes; the little-endian size of the header that begins a file
MOST_HEADER = 1 << 20  # bytes; the header of a sample's features has some 500
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A floating-point tensor in bytes `begin` to `end` of a file, in row-major order."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.begin

    def row(self, number: int) -> StoredTensor:
        """Row `number` of its first dimension."""
        size = self.size // self.shape[0]
        begin = self.begin + number * size
        return dataclasses.replace(self, shape=self.shape[1:], begin=begin, end=begin + size)

    def decode(self, data: bytes) -> Tensor:
        """The tensor of its own bytes."""
        if not data:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(bytearray(data), dtype=self.dtype).reshape(self.shape)


def header_size(data: bytes, size: int) -> int:
    """Bytes of the JSON header of a file of `size` bytes that begins with `data`.

    Raises:
        ValueError: longer than the file, or than any that we write.
    """
    length = int.from_bytes(data[:LENGTH], "little")
    if len(data) < LENGTH or length > min(MOST_HEADER, size - LENGTH):
        raise ValueError(f"its tensors begin with a header of {length} bytes, but {size} bytes are all it has")
    return length


def read_layout(header: bytes, size: int, names: Collection[str]) -> dict[str, StoredTensor]:
    """Those of the named tensors that a file of `size` bytes has.

    Raises:
        ValueError: the header is no JSON, or one of them is no floating-point tensor, or lies elsewhere.
    """
    described = parse_json(header)
    if not isinstance(described, dict):
        raise ValueError("the header of its tensors is no object")
    first = LENGTH + len(header)
    return {name: _stored(name, value, first, size) for name, value in described.items() if name in names}


def _stored(name: str, value: Any, first: int, size: int) -> StoredTensor:
    """One tensor of a header whose data begin at byte `first`."""
    try:
        dtype, shape, (begin, end) = DTYPES[value["dtype"]], tuple(value["shape"]), value["data_offsets"]
        whole = all(type(number) is int and 0 <= number <= size for number in (*shape, begin, end))
        fits = whole and first + begin <= first + end <= size and end - begin == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"its tensor {name[:60]!r} is no floating-point tensor within the file")
    return StoredTensor(dtype, shape, first + begin, first + end)
