"""What selects an object: points for and against, a box, words; and the JSON forms that other packs write."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

MOST_POINTS = 256
BOX_KEYS = (("x0", "y0", "x1", "y1"), ("startX", "startY", "endX", "endY"))

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """A selection of one object, all in pixels of the picture; its kinds may be combined."""

    positive: tuple[Point, ...] = ()  # (x, y)
    negative: tuple[Point, ...] = ()
    box: Box | None = None  # x0, y0, x1, y1
    text: str = ""  # only SAM 3 understands words

    @classmethod
    def from_strings(cls, positive: str, negative: str = "", box: str = "", text: str = "") -> Prompt:
        """Read the strings that points editors write.

        Args:
            positive: JSON as KJNodes' points editor and ComfyUI's SAM 3 nodes have it, `[{"x": 10, "y": 20}, ...]`,
                or bare pairs `[[10, 20], ...]`; empty is none.
            negative: the same, of points that are not on the object.
            box: JSON of one box: `[x0, y0, x1, y1]`, an object with x0, y0, x1, y1, KJNodes' startX, startY, endX,
                endY, or x, y, width, height; or a list of one of these.
            text: words, left as they are.

        Raises:
            ValueError: not such a JSON.
        """
        return cls(_points("positive", positive), _points("negative", negative), _box(box), text.strip())

    def check(self, size: tuple[int, int], name: str, *, words: bool = False) -> None:
        """Whether a segmenter can use it on a picture of `size` (height, width).

        Args:
            size: of the picture.
            name: the segmenter's, for the message.
            words: whether it understands text.

        Raises:
            ValueError: it says nothing, lies outside of the picture, or is text for a segmenter without words.
        """
        height, width = size
        if self.text and not words:
            raise ValueError(f"{name} got the text {self.text!r}, but understands points and boxes only; use SAM 3.")
        if not (self.positive or self.box or self.text):
            raise ValueError(
                f"{name} got no point on the object{', no text' if words else ''} and no box, but something to select "
                "is expected; click on the object."
            )
        if len(self.positive) + len(self.negative) > MOST_POINTS:
            raise ValueError(
                f"{name} got {len(self.positive) + len(self.negative)} points, but at most {MOST_POINTS} are expected; "
                "leave some out."
            )
        for x, y in (*self.positive, *self.negative):
            if not (0 <= x <= width and 0 <= y <= height):
                raise ValueError(
                    f"The point ({x:g}, {y:g}) is outside of the picture, which has {width} x {height} pixels; give "
                    "pixels of this very picture."
                )
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ValueError(
                    f"The box {x0:g}, {y0:g}, {x1:g}, {y1:g} does not lie in the picture of {width} x {height} pixels "
                    "with its corners in order; give x0, y0, x1, y1."
                )


def _json(name: str, text: str) -> Any:
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{name} is {text[:60]!r}, which is not JSON; write points as "
            '[{"x": 10, "y": 20}] and a box as [x0, y0, x1, y1].'
        ) from None


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _points(name: str, text: str) -> tuple[Point, ...]:
    data = _json(name, text)
    if not isinstance(data, list):
        raise ValueError(f'{name} is a {type(data).__name__}, but a list is expected; write [{{"x": 10, "y": 20}}].')
    points = []
    for item in data:
        pair = [item.get("x"), item.get("y")] if isinstance(item, dict) else item
        numbers = [_number(value) for value in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None in numbers:
            raise ValueError(
                f"{name} has the point {str(item)[:60]}, but an x and a y are expected; write "
                '{"x": 10, "y": 20} or [10, 20].'
            )
        points.append((numbers[0], numbers[1]))
    return tuple(points)  # type: ignore[arg-type]


def _box(text: str) -> Box | None:
    data = _json("box", text)
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if data is None or data == [] or data == {}:
        return None
    values: list[Any] = data if isinstance(data, list) else []
    if isinstance(data, dict):
        keys = next((keys for keys in BOX_KEYS if set(keys) <= data.keys()), ())
        values = [data[key] for key in keys]
        if not keys and {"x", "y", "width", "height"} <= data.keys():
            corner = [_number(data[key]) for key in ("x", "y", "width", "height")]
            if None not in corner:
                x, y, width, height = (value or 0.0 for value in corner)
                values = [x, y, x + width, y + height]
    numbers = [_number(value) for value in values]
    if len(numbers) != 4 or None in numbers:
        raise ValueError(f"box is {str(data)[:60]}, but one box is expected; write [x0, y0, x1, y1].")
    x0, y0, x1, y1 = (value or 0.0 for value in numbers)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
