"""Weights out of PyTorch's files (torch.save in both its formats, TorchScript) without executing anything in them.

No unpickler touches them: `torch.load(weights_only=True)` refuses TorchScript archives (CLIP's own files) and
checkpoints that carry a NumPy number or a trainer's settings (LAION's CLAP, AudioLDM), and some small files keep it
busy for good. `disassembly` says what their pickle describes; here the tensors are found in the file's own pages.
Formats: `torch/serialization.py`, TorchScript's `serialization.md`.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..checkpoint import MOST_NAME
from .disassembly import MOST_PICKLE, ArchiveError, Inert, Placed, Stored, follow

ENTRIES = 100_000  # of nested dictionaries, and of the archive; a real checkpoint has some thousands
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how the format before the zip begins


def read_archive(path: Path) -> tuple[dict[str, Any], bool]:
    """The contents of a file as nested dictionaries whose leaves are tensors or inert values; whether it is a program.

    Tensors lie where the file does, in memory that is mapped from it. A TorchScript module, which is a program, becomes
    the dictionary of its attributes.

    Raises:
        ArchiveError: damaged, or holds what weights do not need.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                raise ArchiveError("is empty")
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            read = _zip_parts if zipfile.is_zipfile(file) else _legacy_parts
            file.seek(0)
            value, places, program = read(file)
        return _materialise(value, pages, places), program
    except (
        zipfile.BadZipFile, struct.error, ArithmeticError, EOFError, LookupError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"is damaged ({' '.join(str(error).split())[:80]})") from None


def _zip_parts(file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]], bool]:
    """What a zip archive's pickle describes; where each storage begins and its bytes; whether it is a program."""
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        tops = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise ArchiveError("is a zip archive without a PyTorch model in it")
        root = tops[0].split("/")[0]
        needed = [entry for entry in archive.infolist() if entry.filename.startswith(f"{root}/data")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in needed):  # only programs are
            raise ArchiveError("is compressed, which PyTorch never does")
        if archive.getinfo(tops[0]).file_size > MOST_PICKLE:
            raise ArchiveError(f"has a pickle of more than {MOST_PICKLE} bytes, which weights do not need")
        value = follow(archive.read(tops[0]))
        places = {}
        for entry in needed:
            file.seek(entry.header_offset + 26)  # the lengths of the entry's own name and extra field
            name, extra = struct.unpack("<HH", file.read(4))
            places[entry.filename.rpartition("/")[2]] = (entry.header_offset + 30 + name + extra, entry.file_size)
        return value, places, any(name.endswith("/constants.pkl") for name in archive.namelist())


def _check_directory(file: IO[bytes]) -> None:
    """Look at how long a zip archive's directory is, before it is read as a whole."""
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - 2**16 - 22)
    file.seek(start)
    end = file.read()
    place = end.rfind(b"PK\x05\x06")
    length = struct.unpack("<I", end[place + 12 : place + 16])[0] if place >= 0 else 0
    big = end.rfind(b"PK\x06\x06")  # the form for large archives
    if big >= 0:
        length = max(length if length < 2**32 - 1 else 0, struct.unpack("<Q", end[big + 40 : big + 48])[0])
    if length > 200 * ENTRIES:
        raise ArchiveError("has an endless directory, which weights do not need")
    file.seek(0)


def _legacy_parts(file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]], bool]:
    """The same of the format before the zip: five pickles, then the storages one after another."""
    if file.read(1) != b"\x80":
        raise ArchiveError("is no file of PyTorch's, or of one before 2018")
    file.seek(0)
    bounded = _Bounded(file)
    if follow(bounded) != MAGIC or follow(bounded) != PROTOCOL:
        raise ArchiveError("holds more than weights, or is damaged")
    follow(bounded)  # of the machine that wrote it
    stored: dict[str, Stored] = {}
    value, keys = follow(bounded, stored), follow(bounded)
    if not isinstance(keys, list):
        raise ArchiveError("has no list of storages")
    places = {}
    for key in keys:
        storage = stored.get(key) if isinstance(key, str) else None
        (count,) = struct.unpack("<q", file.read(8))
        if storage is None or count != storage.count:
            raise ArchiveError("has a storage that says another size than its tensors")
        places[storage.key] = (file.tell(), count * storage.dtype.itemsize)
        file.seek(count * storage.dtype.itemsize, io.SEEK_CUR)
    return value, places, False


class _Bounded:
    """A file whose pickles are read, no more than `MOST_PICKLE` bytes of it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, MOST_PICKLE

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise ArchiveError(f"has a pickle of more than {MOST_PICKLE} bytes, which weights do not need")
        return data

    def read(self, size: int) -> bytes:
        return self._counted(self.file.read(min(size, self.left + 1)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def tell(self) -> int:
        return self.file.tell()


def _materialise(value: Any, pages: mmap.mmap, places: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Put tensors in the place of their descriptions.

    Raises:
        ArchiveError: no dictionary, or tensors that do not lie in the file.
    """
    storages: dict[Stored, Tensor] = {}
    entries = total = 0

    def tensor(item: Placed) -> Tensor:
        nonlocal total
        storage, width = item.storage, item.storage.dtype.itemsize
        size = math.prod(item.size) * width
        total += size
        if size > len(pages):  # strides of 0 make small storages look endless
            raise ArchiveError(f"has a tensor of shape {item.size}, which is larger than the file")
        if total > 4 * len(pages) + 2**20:  # many tensors over the same numbers, each of which would be copied
            raise ArchiveError("has tensors that are larger than the file, taken together")
        if storage not in storages:
            start, there = places[storage.key]
            if storage.count * width > there or start + there > len(pages):
                raise ArchiveError(f"has a storage of {storage.count} numbers in {there} bytes")
            data: Any = pages
            if start % width:  # torch wants numbers at multiples of their size
                data, start = bytearray(pages[start : start + storage.count * width]), 0
            storages[storage] = torch.empty(0, dtype=storage.dtype)
            if storage.count:
                storages[storage] = torch.frombuffer(data, dtype=storage.dtype, count=storage.count, offset=start)
        return torch.as_strided(storages[storage], item.size, item.stride, item.offset)

    def convert(item: Any, depth: int) -> Any:
        nonlocal entries
        entries += 1
        if depth > 100 or entries > ENTRIES:  # dictionaries that hold each other several times grow without end
            raise ArchiveError("is nested too deep")
        if isinstance(item, Placed):
            return tensor(item)
        if isinstance(item, Inert) and isinstance(item.state, dict):
            item = item.state
        if isinstance(item, dict):
            return {str(key): convert(inner, depth + 1) for key, inner in item.items() if _is_name(key)}
        return item

    result = convert(value, 0)
    if not isinstance(result, dict):
        raise ArchiveError("holds no dictionary of weights")
    return result


def _is_name(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and len(key) <= MOST_NAME and key.isprintable())


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names (joined by dots) and tensors of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
