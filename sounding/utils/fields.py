"""Dataclasses filled from files: unknown keys, wrong types and numbers out of their range get one sentence.

A range is part of its field's type, `layers: Annotated[int, Range(1, 16)] = 2`, and is checked however the object is
made: `Checked.__post_init__` checks all fields, `from_dict` names them by their place in the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

from .messages import shown

MOST_JSON = 2**20  # characters of a configuration; the paper's has 2000
MOST_TEXT = 10_000  # characters of any text without a limit of its own


class Constraint(Protocol):
    """A condition on values of the right type."""

    def check(self, value: Any, name: str) -> None:
        """Raise a ValueError that names the field and what is expected."""


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both allowed; NaN is in no range."""

    low: float
    high: float

    def check(self, value: Any, name: str) -> None:
        """See `Constraint.check`."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} is {shown(value)}, but {self.low:.12g} to {self.high:.12g} is expected.")


@dataclass(frozen=True)
class Length:
    """A number of items in a list or mapping."""

    least: int
    most: int

    def check(self, value: Any, name: str) -> None:
        """See `Constraint.check`."""
        if not self.least <= len(value) <= self.most:
            raise ValueError(f"{name} has {len(value)} values, but {self.least} to {self.most} are expected.")


@dataclass(frozen=True)
class Text:
    """One line of at most `most` printable characters."""

    most: int

    def check(self, value: Any, name: str) -> None:
        """See `Constraint.check`."""
        if len(value) > self.most or not value.isprintable():
            raise ValueError(
                f"{name} is {shown(value)}, but one line of at most {self.most} printable characters is expected."
            )


class Checked:
    """Base of dataclasses whose fields are checked and converted to their types on construction."""

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, hint in _hints(cls).items():
            value = typed(hint, getattr(self, name), f"{cls.__name__}.{name}")
            object.__setattr__(self, name, value)  # most of these classes are frozen


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields, with their constraints."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}  # type: ignore[arg-type]


def from_dict(cls: type, data: dict[str, Any], where: str = "", *, called: str | None = None) -> Any:
    """Build the dataclass `cls` from nested dictionaries, checking names, types and ranges.

    Messages name it `called`, or by its own name.

    Raises:
        ValueError: naming the key that is unknown, missing, of the wrong type or out of its range.
    """
    hints, called = _hints(cls), called or cls.__name__
    for item in dataclasses.fields(cls):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and item.name not in data:
            raise ValueError(f"The key {where + item.name!r} is missing, but {called} needs it; give it a value.")
    values = {}
    for key, value in data.items():
        if not isinstance(key, str) or key not in hints:
            name = where + (key if isinstance(key, str) else shown(key))
            raise ValueError(f"Unknown key {shown(name)}; {called} has {', '.join(sorted(hints))}.")
        values[key] = typed(hints[key], value, f"{where}{key}")
    return cls(**values)


def typed(hint: Any, value: Any, name: str) -> Any:
    """`value` as `hint` asks (lists become tuples, whole numbers floats), or a ValueError naming it."""
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if isinstance(value, (list, dict)):  # the length first: a long list is not looked through
            for constraint in hint.__metadata__:
                if isinstance(constraint, Length):
                    constraint.check(value, name)
        value = typed(arguments[0], value, name)
        for constraint in hint.__metadata__:
            constraint.check(value, name)
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        # tuple[X, ...] or tuple[X, X, X]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{name} has {len(value)} values, but {len(arguments)} are expected.")
        return tuple(typed(arguments[0], item, name) for item in value)
    if origin is list and isinstance(value, list):
        return [typed(arguments[0], item, name) for item in value]
    if origin is dict and isinstance(value, dict):
        return {
            typed(arguments[0], key, f"A key of {name}"): typed(arguments[1], item, f"{name}.{shown(key)}")
            for key, item in value.items()
        }
    if origin in (typing.Union, types.UnionType):
        return _any_of(arguments, value, name)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise ValueError(f"{name} is {shown(value)}, but one of {', '.join(map(str, arguments))} is expected.")
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, name)
    if hint is str and isinstance(value, str):
        return _text(value, name)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} is {shown(value)}, but {getattr(hint, '__name__', hint)} is expected.")


def _any_of(options: tuple[Any, ...], value: Any, name: str) -> Any:
    """`value` as the first option that accepts it; otherwise the last option's error."""
    said: ValueError | None = None
    for option in options:
        if option is type(None):
            if value is None:
                return None
            continue
        try:
            return typed(option, value, name)
        except ValueError as error:
            said = error
    raise said or ValueError(f"{name} is {shown(value)}, but nothing is expected.")


def _finite(value: float, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shown(value)}, but a finite number is expected.")
    return number


def _text(value: str, name: str) -> str:
    if len(value) > MOST_TEXT or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is {shown(value)}, but a text of at most {MOST_TEXT} real characters is expected.")
    return value


def parse_json(text: str, *, most: int = MOST_JSON) -> Any:
    """Standard JSON of bounded length: NaN, Infinity, repeated keys and extreme nesting are refused.

    Raises:
        ValueError: with what is wrong, to follow "... is not JSON".
    """
    if len(text) > most:
        raise ValueError(f"it has {len(text)} characters, but at most {most} are expected")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key is there twice")
        return made

    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
