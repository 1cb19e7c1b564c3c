"""Points and boxes out of the JSON forms that points editors write: one reader for every node and the library."""

from __future__ import annotations

import json
from typing import Any

MAX_TEXT = 200_000  # characters
MAX_POINTS = 256  # in a list
MAX_SIDE = 32_768  # pixels
BOX_KEYS = (("x0", "y0", "x1", "y1"), ("startX", "startY", "endX", "endY"))

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def parse(text: Any, what: str) -> Any:
    """What a string of JSON says; None and an empty string are an empty list, lists and mappings stay as they are.

    Args:
        text: the string.
        what: its name, for the message.

    Raises:
        ValueError: not JSON, or too long.
    """
    if text is None:
        return []
    if isinstance(text, (list, tuple, dict)):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{what} is {shown(text)}, but JSON as text is expected; {_WRITE}.")
    if len(text) > MAX_TEXT:
        raise ValueError(f"{what} has {len(text)} characters, but at most {MAX_TEXT} are expected; leave some out.")
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is {shown(text)}, which is not JSON, but JSON is expected; {_WRITE}.") from None


def read_points(
    positive: Any,
    negative: Any,
    *,
    names: tuple[str, str] = ("positive", "negative"),
    most: int = MAX_POINTS,
) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Points on an object and points outside of it.

    A point is `{"x": 10, "y": 20}` or `[10, 20]`. It may say by a `"label"` of 1 or 0, as SAM's own labels, whether it
    is on the object; without one, the list that it is in says so. Other keys of a point mean nothing.

    Args:
        positive: a parsed list of points on the object.
        negative: one of points outside of it.
        names: of the two lists, for the message.
        most: points in a list.

    Raises:
        ValueError: anything else, or coordinates that no image has.
    """
    found: tuple[list[Point], list[Point]] = ([], [])
    for data, name, inside in ((positive, names[0], True), (negative, names[1], False)):
        if not isinstance(data, (list, tuple)):
            raise ValueError(f"{name} is a {type(data).__name__}, but a list is expected; {_WRITE}.")
        if len(data) > most:
            raise ValueError(f"{name} has {len(data)} points, but at most {most} are expected; leave some out.")
        for item in data:
            point, on = _point(item, name, inside)
            found[0 if on else 1].append(point)
    return tuple(found[0]), tuple(found[1])


def read_box(data: Any, what: str = "box") -> Box | None:
    """One box with its corners in order; None where there is none.

    Args:
        data: parsed JSON: `[x0, y0, x1, y1]`, a mapping with x0, y0, x1, y1, KJNodes' startX, startY, endX, endY, or x,
            y, width, height; or a list of one of these.
        what: its name, for the message.

    Raises:
        ValueError: anything else.
    """
    if isinstance(data, (list, tuple)) and len(data) == 1:
        data = data[0]
    if data is None or data == [] or data == {}:
        return None
    values: list[Any] = list(data) if isinstance(data, (list, tuple)) else []
    if isinstance(data, dict):
        keys = next((keys for keys in BOX_KEYS if set(keys) <= data.keys()), ())
        values = [data[key] for key in keys]
        if not keys and {"x", "y", "width", "height"} <= data.keys():
            values = [data[key] for key in ("x", "y", "width", "height")]
            if all(number(value) is not None for value in values):
                values[2:] = values[0] + values[2], values[1] + values[3]
    numbers = [number(value) for value in values]
    if len(numbers) != 4 or None in numbers:
        raise ValueError(
            f"{what} is {shown(data)}, but one box is expected, 0 to {MAX_SIDE} pixels; write [x0, y0, x1, y1]."
        )
    x0, y0, x1, y1 = (value or 0.0 for value in numbers)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def number(value: Any, low: float = 0, high: float = MAX_SIDE) -> float | None:
    """A number from `low` to `high`, or None: what is not finite lies in no range, nor does one of 400 digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        return None
    return float(value)


def shown(value: Any) -> str:
    """A value in a message: on one line, short, printable, and whatever it holds."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


_WRITE = 'write points as [{"x": 10, "y": 20}] and a box as [x0, y0, x1, y1]'


def _point(item: Any, name: str, inside: bool) -> tuple[Point, bool]:
    """A point, and whether it is on the object."""
    pair = [item.get("x"), item.get("y")] if isinstance(item, dict) else item
    numbers = [number(value) for value in pair] if isinstance(pair, (list, tuple)) and len(pair) == 2 else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise ValueError(
            f"{name} has the point {shown(item)}, but an x and a y are expected, 0 to {MAX_SIDE} pixels; write "
            '{"x": 10, "y": 20} or [10, 20].'
        )
    label = item.get("label") if isinstance(item, dict) else None
    if label is not None and (not isinstance(label, (bool, int, float)) or label not in (0, 1)):
        raise ValueError(
            f"{name} has a point with the label {shown(label)}, but 1 (on the object) or 0 (outside) is expected; "
            "write one of them, or none."
        )
    return (numbers[0], numbers[1]), inside if label is None else label == 1
