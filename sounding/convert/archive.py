"""Weights out of a zip archive of PyTorch (torch.save or TorchScript) without executing anything in it.

`torch.load(weights_only=True)` refuses TorchScript archives (CLIP's own files) and checkpoints that carry a
NumPy number or a trainer's settings beside the weights (LAION's CLAP, AudioLDM). `torch.jit.load` or a full
unpickling would run code from the file. Here the pickle is only disassembled (`pickletools.genops`) and its
instructions are followed on plain values: what would be a call becomes an inert note of it, and the few calls
that mean "a tensor lies there" are read as that. Formats: `torch/serialization.py`, TorchScript's
`serialization.md`.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Things from here are noted and left alone; a checkpoint that names anything else is not just weights.
HARMLESS = {
    "__torch__", "_codecs", "argparse", "collections", "lightning", "lightning_fabric", "numpy", "omegaconf",
    "pytorch_lightning", "torch", "typing",
}  # fmt: skip
# Instructions that push a number, a text or bytes.
CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
ENTRIES = 100_000  # of nested dictionaries; a real checkpoint has some thousands
PLAIN_BUILTINS = {"set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes", "complex"}


class ArchiveError(ValueError):
    """What the archive holds that is not weights; completes "the file ..."."""


@dataclass(eq=False)
class Name:
    """A class or function that the pickle names."""

    module: str
    name: str


@dataclass(eq=False)
class Inert:
    """An object that unpickling would have made; `state` is what it would have been given."""

    made_by: Any
    arguments: Any = ()
    state: Any = None


@dataclass(frozen=True)
class Stored:
    """A storage in the archive."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Placed:
    """A tensor that is not read yet."""

    storage: Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Machine:
    """The pickle virtual machine's stack and memo, holding plain values only."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("pop from an empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items


def follow(data: bytes) -> Any:
    """The value that a pickle describes, with calls and objects as `Inert`, tensors as `Placed`.

    Raises:
        ArchiveError: it is damaged or names something that weights do not need.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack[-1]
            _step(machine, opcode.name, argument)
    except ArchiveError:
        raise
    except Exception as error:  # a broken instruction stream fails in any of many ways
        raise ArchiveError(f"is damaged ({type(error).__name__}: {error})") from None
    raise ArchiveError("is cut off")


def _step(machine: _Machine, name: str, argument: Any) -> None:
    stack, memo = machine.stack, machine.memo
    if name in ("PROTO", "FRAME"):
        return
    if name == "MARK":
        machine.marks.append(len(stack))
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name == "GLOBAL":
        module, _, attribute = argument.partition(" ")
        stack.append(_known(module, attribute))
    elif name == "STACK_GLOBAL":
        stack.append(_known(*machine.pop(2)))
    elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
        stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
    elif name.startswith("EMPTY_"):
        stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[name]())
    elif name == "TUPLE":
        stack.append(tuple(machine.since_mark()))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        stack.append(tuple(machine.pop(int(name[-1]))))
    elif name == "LIST":
        stack.append(machine.since_mark())
    elif name == "APPEND":
        (item,) = machine.pop(1)
        stack[-1].append(item)
    elif name == "APPENDS":
        items = machine.since_mark()
        stack[-1].extend(items)
    elif name == "ADDITEMS":
        items = machine.since_mark()
        stack[-1].update(items)
    elif name in ("DICT", "SETITEM", "SETITEMS"):
        items = machine.pop(2) if name == "SETITEM" else machine.since_mark()
        if name == "DICT":
            stack.append({})
        target = stack[-1]
        if isinstance(target, dict):  # an inert object with items (a trainer's own kind of dict) stays empty
            target.update(zip(items[::2], items[1::2], strict=True))
    elif name in ("REDUCE", "NEWOBJ"):
        function, arguments = machine.pop(2)
        stack.append(_call(function, arguments))
    elif name == "NEWOBJ_EX":
        function, arguments, _ = machine.pop(3)
        stack.append(_call(function, arguments))
    elif name == "BUILD":
        (state,) = machine.pop(1)
        if isinstance(stack[-1], Inert):
            stack[-1].state = state
    elif name == "BINPERSID":
        (reference,) = machine.pop(1)
        stack.append(_storage(reference))
    elif name == "POP":
        machine.pop(1)
    elif name in CONSTANTS:
        stack.append(argument)
    else:
        raise ArchiveError(f"uses the pickle instruction {name}, which weights do not need")


def _known(module: str, name: str) -> Name:
    root = module.split(".", maxsplit=1)[0]
    builtin = module in ("builtins", "__builtin__") and name in PLAIN_BUILTINS
    if not builtin and root not in HARMLESS:
        raise ArchiveError(f"names {module}.{name}, which weights do not need")
    return Name(module, name)


def _call(function: Any, arguments: Any) -> Any:
    called = f"{function.module}.{function.name}" if isinstance(function, Name) else ""
    if called == "collections.OrderedDict":
        return dict(*arguments)
    if called == "torch._utils._rebuild_tensor_v2":
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Stored):
            raise ArchiveError("has a tensor without a storage")
        return Placed(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    if called == "torch._utils._rebuild_parameter":
        return arguments[0]
    return Inert(function, arguments)


def _storage(reference: Any) -> Stored:
    kind, storage_type, key = reference[:3]
    if kind != "storage" or not isinstance(storage_type, Name) or storage_type.name not in DTYPES:
        raise ArchiveError("has a storage of an unknown kind")
    return Stored(str(key), DTYPES[storage_type.name])


def read_archive(path: Path) -> dict[str, Any]:
    """The contents of an archive as nested dictionaries whose leaves are tensors (read now) or inert values.

    A TorchScript module becomes the dictionary of its attributes.

    Raises:
        ArchiveError: damaged, or holds what weights do not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tops = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(tops) != 1:
                raise ArchiveError("is a zip archive without a PyTorch model in it")
            root = tops[0].split("/")[0]
            return _materialise(follow(archive.read(tops[0])), archive, root)
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, TypeError, NotImplementedError) as error:
        raise ArchiveError(f"is damaged ({error})") from None


def _materialise(value: Any, archive: zipfile.ZipFile, root: str) -> dict[str, Any]:
    """Read the tensors of `value`; each storage once."""
    storages: dict[Stored, Tensor] = {}
    entries = 0

    def convert(item: Any, depth: int) -> Any:
        nonlocal entries
        entries += 1
        if depth > 100 or entries > ENTRIES:  # dictionaries that hold each other several times grow without end
            raise ArchiveError("is nested too deep")
        if isinstance(item, Placed):
            if item.storage not in storages:
                data = bytearray(archive.read(f"{root}/data/{item.storage.key}"))
                storages[item.storage] = torch.frombuffer(data, dtype=item.storage.dtype) if data else torch.empty(0)
            # as_strided refuses places outside the storage.
            return torch.as_strided(storages[item.storage], item.size, item.stride, item.offset)
        if isinstance(item, Inert) and isinstance(item.state, dict):
            item = item.state
        if isinstance(item, dict):
            return {str(key): convert(inner, depth + 1) for key, inner in item.items()}
        return item

    result = convert(value, 0)
    if not isinstance(result, dict):
        raise ArchiveError("holds no dictionary of weights")
    return result


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names (joined by dots) and tensors of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
