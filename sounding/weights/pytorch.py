"""Weights out of PyTorch's own files by `torch.load(weights_only=True)`, in both its formats.

Two published kinds hold more beside their weights than that takes by default: LAION's CLAP (NumPy numbers; its .pt
files are published in no other form) and AudioLDM's original .ckpt (its trainer's settings). `Ignored` takes the place
of what they name. TorchScript programs, such as OpenAI's CLIP files, are not read: OpenAI publishes the same weights as
safetensors.

`torch.load` runs nothing that a file names, but a small file can keep it busy for years or fill the memory. So the
pickle's instructions are counted beforehand, and the tensors are checked against the size of their file afterwards.
"""

from __future__ import annotations

import io
import pickletools
import struct
import threading
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from . import WeightsError

# A checkpoint may name classes and functions of these; one that names anything else is not just weights.
HARMLESS = {
    "_codecs", "argparse", "collections", "lightning", "lightning_fabric", "numpy", "omegaconf", "pytorch_lightning",
    "torch", "typing",
}  # fmt: skip
PLAIN_BUILTINS = {"set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes", "complex"}
MOST_PICKLE = 32 * 2**20  # bytes; instructions with a trainer's settings, without the weights, have some megabytes
MOST_STEPS = 1_000_000  # instructions; a checkpoint of 3000 tensors with its optimizer has 400,000
MOST_VALUES = 4_000_000  # nested in one value, shared ones once per reference; also in all arguments of calls together
MOST_DIRECTORY = 20 * 2**20  # bytes of a zip archive's list of entries; a checkpoint has some thousand entries
LARGEST = 2**63  # of integers; larger ones can be chosen so that all have the same hash
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how the format before the zip begins, a pickled number
MOST_AXES = 16
CHANGING = {"APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS", "BUILD"}
CALLING = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"}
_loading = threading.Lock()  # torch keeps the allowed names in one place for all threads


class Ignored:
    """Stands in for an object that is not a weight, whatever it would have been made from."""

    def __new__(cls, *arguments: Any, **options: Any) -> Ignored:
        """Take anything."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_pytorch(path: Path) -> Any:
    """What a file holds: dictionaries of tensors on the CPU, and `Ignored` in place of everything foreign.

    Tensors are copied rather than mapped from the file, because torch does not look at the length of what it maps.

    Raises:
        WeightsError: completes "the file ..."; it is damaged, or holds what weights do not need.
    """
    try:
        with path.open("rb") as file:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            _check_archive(file) if zipped else _check_stream(file)
        names = get_unsafe_globals_in_checkpoint(path) if zipped else []
        for name in sorted(names):
            if not _is_harmless(name):
                raise WeightsError(f"names {name[:160]}, which weights do not need")
        with _loading, safe_globals([(Ignored, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except WeightsError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise WeightsError("is damaged") from None
    except Exception as error:  # a broken file fails in any of many ways, and torch's advice is to switch safety off
        raise WeightsError(f"is damaged, or holds more than weights ({type(error).__name__})") from None


def _is_harmless(name: str) -> bool:
    root, _, rest = name.partition(".")
    return root in HARMLESS or (root in ("builtins", "__builtin__") and rest in PLAIN_BUILTINS)


def _check_archive(file: IO[bytes]) -> None:
    """Look at a zip archive before torch reads it: what kind it is, and what its entries add up to."""
    size = _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.count("/") == 1 and entry.filename.endswith("data.pkl")]
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise WeightsError(
                "is a TorchScript program (for CLIP, `sounding fetch clip-b32` gets OpenAI's weights as safetensors)"
            )
        if len(pickles) != 1:
            raise WeightsError("is a zip archive without a PyTorch model in it")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise WeightsError("is compressed, which PyTorch never does")
        if sum(entry.file_size for entry in entries) > size:
            raise WeightsError("has entries that are larger than the file, taken together")
        if pickles[0].file_size > MOST_PICKLE:
            raise WeightsError(f"has a pickle of more than {MOST_PICKLE} bytes, which weights do not need")
        check_pickle(io.BytesIO(archive.read(pickles[0])))


def _check_directory(file: IO[bytes]) -> int:
    """Look at how long a zip archive's directory is, before it is read as a whole; the size of the archive."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2**16 - 22))
    end = file.read()
    place = end.rfind(b"PK\x05\x06")
    length = struct.unpack("<I", end[place + 12 : place + 16])[0] if place >= 0 else 0
    large = end.rfind(b"PK\x06\x06")  # the form for large archives
    if large >= 0:
        length = max(length if length < 2**32 - 1 else 0, struct.unpack("<Q", end[large + 40 : large + 48])[0])
    if length > MOST_DIRECTORY:
        raise WeightsError(f"has a directory of more than {MOST_DIRECTORY} bytes, which weights do not need")
    file.seek(0)
    return size


def _check_stream(file: IO[bytes]) -> None:
    """The same for the format before the zip: five pickles, then the storages one after another."""
    start = io.BytesIO(file.read(MOST_PICKLE))
    if not start.getbuffer().nbytes:
        raise WeightsError("is empty")
    if start.read(len(LEGACY)) != LEGACY:
        raise WeightsError("is not a PyTorch file, or one from before 2018")
    for _ in range(4):  # the version, the machine that wrote it, the value, the storages' names
        check_pickle(start)


def check_pickle(pickled: IO[bytes]) -> None:
    """Bound what it costs to unpickle, without making any value; leaves the file where the pickle ends.

    A value counts all values nested in it, shared ones once per reference: hashing a chain of 64 tuples that each hold
    the one before twice takes years, and copies of copies fill the memory.

    Raises:
        WeightsError: it costs more than weights do, or is damaged.
    """
    stack: list[list[int]] = []  # the count of each value, in a list so that the memo shares it
    memo: dict[int, list[int]] = {}
    mark: list[int] = []
    called_with = 0
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            name, popped = opcode.name, []
            if name == "STOP":
                return
            if steps > MOST_STEPS:
                raise WeightsError(f"has more than {MOST_STEPS} pickle instructions, which weights do not need")
            if isinstance(argument, int) and abs(argument) >= LARGEST:
                raise WeightsError("has a number beyond any size, which weights do not need")
            if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
                continue
            if name in ("GET", "BINGET", "LONG_BINGET", "MARK"):
                stack.append(mark if name == "MARK" else memo[int(argument or 0)])
                continue
            for kind in reversed(opcode.stack_before):
                if kind is pickletools.stackslice:
                    while (item := stack.pop()) is not mark:
                        popped.append(item)
                elif kind is not pickletools.markobject:
                    popped.append(stack.pop())
            count = 1 + sum(item[0] for item in popped)
            called_with += count if name in CALLING else 0
            if count > MOST_VALUES or called_with > MOST_VALUES:
                raise WeightsError("is nested or copied beyond what weights need")
            made = [count]
            if name in CHANGING:  # the container stays the same one
                made = popped[-1]
                made[0] = count
            stack += [made] * len(opcode.stack_after)
    except WeightsError:
        raise
    except Exception as error:  # a broken stream of instructions fails in any of many ways
        raise WeightsError(f"is damaged ({type(error).__name__})") from None
    raise WeightsError("is cut off")


def check_tensors(tensors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Plain tensors that take no more than a file of `size` bytes can hold; parameters become tensors.

    Raises:
        WeightsError: other tensors. Strides of 0 make a small storage look endless, and many tensors can share one.
    """
    total = 0
    for name, value in tensors.items():
        if (
            value.layout is not torch.strided
            or value.is_quantized
            or value.device.type != "cpu"
            or value.ndim > MOST_AXES
        ):
            raise WeightsError(f"has a tensor {name[:80]!r} of a kind that weights do not need")
        bytes_of_it = value.numel() * value.itemsize
        total += bytes_of_it
        if bytes_of_it > size:
            raise WeightsError(f"has a tensor of shape {tuple(value.shape)}, which is larger than the file")
        if total > 4 * size + 2**20:
            raise WeightsError("has tensors that are larger than the file, taken together")
    return {name: value.detach() for name, value in tensors.items()}
