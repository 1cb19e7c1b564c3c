"""What a pickle of weights describes, without unpickling it.

The pickle is only disassembled (`pickletools.genops`) and its instructions are followed on plain values: what would be
a call becomes an inert note of it, and the few calls that mean "a tensor lies there" are read as that. Instructions,
copies and sizes are bounded, and nothing that was nested is hashed or written out: a dictionary's key that is a tuple
nested 64 times takes years to hash.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

import torch

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
MOST_PICKLE = 32 * 2**20  # bytes; instructions with a trainer's settings, without the weights, have some megabytes
MOST_STEPS = 1_000_000  # instructions; a checkpoint of 3000 tensors with its optimiser has 400,000
MOST_COPIES = 4_000_000  # items that calls copy
MOST_AXES = 16
SMALL = 2**31
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
    count: int  # of its numbers, as it says itself


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
    copies: int = 0

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

    def copied(self, items: Any) -> Any:
        """Items that a call would copy: copies of copies are a small file's way to fill the memory."""
        self.copies += len(items)
        if self.copies > MOST_COPIES:
            raise ArchiveError("copies its values without end")
        return items


def follow(data: Any, storages: dict[str, Stored] | None = None) -> Any:
    """The value that a pickle describes, with calls and objects as `Inert`, tensors as `Placed`.

    Args:
        data: the pickle, or a file of several, which is left where the first ends.
        storages: gets every storage that is spoken of, by its key.

    Raises:
        ArchiveError: it is damaged or names something that weights do not need.
    """
    machine = _Machine()
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return machine.stack[-1]
            if steps > MOST_STEPS:
                raise ArchiveError(f"has more than {MOST_STEPS} pickle instructions, which weights do not need")
            _step(machine, opcode.name, argument)
            if storages is not None and opcode.name == "BINPERSID":
                storages[machine.stack[-1].key] = machine.stack[-1]
    except ArchiveError:
        raise
    except Exception as error:  # a broken instruction stream fails in any of many ways
        raise ArchiveError(f"is damaged ({type(error).__name__}: {str(error)[:80]})") from None
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
    elif name in ("APPEND", "APPENDS", "ADDITEMS"):
        items = machine.pop(1) if name == "APPEND" else machine.since_mark()
        if isinstance(stack[-1], list):
            stack[-1].extend(items)
        elif isinstance(stack[-1], set):
            stack[-1].update(map(_key, items))
    elif name in ("DICT", "SETITEM", "SETITEMS"):
        items = machine.pop(2) if name == "SETITEM" else machine.since_mark()
        if name == "DICT":
            stack.append({})
        target = stack[-1]
        if isinstance(target, dict):  # an inert object with items (a trainer's own kind of dict) stays empty
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
    elif name in ("REDUCE", "NEWOBJ"):
        function, arguments = machine.pop(2)
        stack.append(_call(machine, function, arguments))
    elif name == "NEWOBJ_EX":
        function, arguments, _ = machine.pop(3)
        stack.append(_call(machine, function, arguments))
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


def _key(value: Any) -> Any:
    """A dictionary's key: text and small numbers as they are, all else as something without a value of its own.

    Hashing a nested tuple takes exponential time, and large numbers can be chosen to have one hash all.
    """
    if value is None or isinstance(value, (str, bool)) or (isinstance(value, int) and abs(value) < SMALL):
        return value
    return Inert(Name("builtins", "object"), state=value)


def _known(module: Any, name: Any) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ArchiveError("is damaged (a name that is no text)")
    root = module.split(".", maxsplit=1)[0]
    builtin = module in ("builtins", "__builtin__") and name in PLAIN_BUILTINS
    if not builtin and root not in HARMLESS:
        raise ArchiveError(f"names {module[:80]}.{name[:80]}, which weights do not need")
    return Name(module, name)


def _call(machine: _Machine, function: Any, arguments: Any) -> Any:
    called = f"{function.module}.{function.name}" if isinstance(function, Name) else ""
    if called == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        for pairs in arguments:
            for key, value in machine.copied(list(pairs.items()) if isinstance(pairs, dict) else pairs):
                made[_key(key)] = value
        return made
    if called in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Stored):
            raise ArchiveError("has a tensor without a storage")
        return _placed(storage, offset, size, stride)
    if called == "torch._utils._rebuild_parameter":
        return arguments[0]
    return Inert(function, arguments)


def _placed(storage: Stored, offset: Any, size: Any, stride: Any) -> Placed:
    """A tensor's place, if it lies in its storage and takes no more than that.

    Raises:
        ArchiveError: it does not.
    """
    if not (isinstance(size, (tuple, list)) and isinstance(stride, (tuple, list)) and len(size) == len(stride)):
        raise ArchiveError("has a tensor without a shape")
    numbers = [offset, *size[:MOST_AXES], *stride[:MOST_AXES]]
    if len(size) > MOST_AXES or not all(type(each) is int and 0 <= each < 2**62 for each in numbers):
        raise ArchiveError(f"has a tensor that lies nowhere (of {len(size)} axes)")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise ArchiveError(f"has a tensor of shape {tuple(size)} in {storage.count} numbers")
    return Placed(storage, offset, tuple(size), tuple(stride))


def _storage(reference: Any) -> Stored:
    kind, storage_type, key, _, count = reference[:5]
    view = reference[5] if len(reference) > 5 else None  # the old format's
    if kind != "storage" or not isinstance(storage_type, Name) or storage_type.name not in DTYPES or view is not None:
        raise ArchiveError("has a storage of an unknown kind")
    if not isinstance(key, (str, int)) or type(count) is not int or not 0 <= count < 2**62:
        raise ArchiveError("has a storage without a size")
    return Stored(str(key)[:80], DTYPES[storage_type.name], count)
