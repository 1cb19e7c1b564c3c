"""What is clicked in an image, as the one string that workflows keep: parsed and checked.

Independent of the host. The form, in pixels of an image of `size`:

    {"version": 1, "size": [width, height], "objects": [
        {"name": "dog", "auto": true, "colour": "#e69f00", "on": true, "gain_db": 0,
         "positive": [{"x": 10, "y": 20}], "negative": [], "box": [left, top, right, bottom], "take": 2}]}

`take` is the number of a near variant of the object's sound; without it the sound is the seed's own. `size` may be
null: then points are in pixels of whatever image comes. `box` may be null. With `auto` the name was given by the node,
which changes it with the clicks; a name that somebody has typed stays. Points have the form of KJNodes' points editor
and of ComfyUI's own SAM nodes; `sounding.segment.points` lists other forms that can be read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from ...sounding.segment.points import MAX_SIDE, MAX_TEXT, Box, Point, number, parse, read_points, shown

VERSION = 1
MAX_OBJECTS = 32
MAX_POINTS = 100  # per kind and object
MAX_NAME = 100
GAINS = (-60.0, 24.0)  # dB
MAX_TAKE = 999
DEFAULT_COLOUR = "#e69f00"
# By how much the aspect ratio may differ where an image comes in another size than the clicked one.
SAME_SHAPE = 0.02

OBJECT_KEYS = {"name", "auto", "colour", "on", "gain_db", "positive", "negative", "box", "take"}
RENEW = "set it again in the node, or repair the text"


class StateError(ValueError):
    """An invalid click state, or an invalid string of points."""


@dataclass(frozen=True)
class ClickObject:
    """One object: what was clicked, and how it is to sound."""

    name: str
    colour: str = DEFAULT_COLOUR
    on: bool = True
    gain_db: float = 0.0
    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    box: Box | None = None
    auto: bool = False  # the name was given by the node, not by a person
    take: int = 0  # seed of the variant of its sound; 0 is none

    @property
    def clicked(self) -> bool:
        """Whether it has any point or a box."""
        return bool(self.positive or self.negative or self.box)

    def scaled(self, across: float, down: float) -> ClickObject:
        """The same clicks on an image whose width and height are `across` and `down` times as large."""
        box = self.box and (self.box[0] * across, self.box[1] * down, self.box[2] * across, self.box[3] * down)
        return dataclasses.replace(
            self,
            positive=tuple((x * across, y * down) for x, y in self.positive),
            negative=tuple((x * across, y * down) for x, y in self.negative),
            box=box,
        )


@dataclass(frozen=True)
class ClickState:
    """All objects of an image, and the width and height of the image that their points refer to."""

    size: tuple[int, int] | None = None
    objects: tuple[ClickObject, ...] = ()

    def on_image(self, width: int, height: int) -> tuple[ClickObject, ...]:
        """The objects in pixels of an image, which may have another resolution than the clicked one.

        Raises:
            StateError: another aspect ratio, a point outside the image, or an object that has only points outside it.
        """
        objects = self.objects
        if self.size is not None and self.size != (width, height):
            across, down = width / self.size[0], height / self.size[1]
            if abs(across / down - 1) > SAME_SHAPE:
                raise StateError(
                    f"The objects were clicked in an image of {self.size[0]} x {self.size[1]} pixels, but this one "
                    f"has {width} x {height}, another shape; click on the objects of this image anew."
                )
            objects = tuple(each.scaled(across, down) for each in objects)
        for each in objects:
            corners = [] if each.box is None else [each.box[:2], each.box[2:]]
            for x, y in (*each.positive, *each.negative, *corners):
                if x > width or y > height:
                    raise StateError(
                        f"A point of {each.name!r} is at {x:g}, {y:g}, but the image has {width} x {height} "
                        f"pixels; {RENEW}."
                    )
            if each.clicked and not (each.positive or each.box):
                raise StateError(
                    f"{each.name!r} has only points outside of it, but a point inside or a box is expected; click on "
                    "the object, or remove its points."
                )
        return objects


def parse_state(text: str) -> ClickState:
    """Parse the string of a state; an empty one has no objects.

    Raises:
        StateError: another form than above; one sentence says what is wrong and where.
    """
    if not isinstance(text, str):
        raise StateError(f"state is {shown(text)}, but JSON as text is expected; {RENEW}.")
    if len(text) > MAX_TEXT:
        raise StateError(f"state has {len(text)} characters, but at most {MAX_TEXT} are expected; {RENEW}.")
    return read_state(_json(text, "state")) if text.strip() else ClickState()


def read_state(data: Any) -> ClickState:
    """The state from parsed JSON.

    Raises:
        StateError: see `parse_state`.
    """
    data = _dict(data, "state", {"version", "size", "objects"}, {"version", "objects"})
    if data["version"] != VERSION or isinstance(data["version"], bool):
        raise StateError(f"state has version {shown(data['version'])}, but {VERSION} is expected; update the pack.")
    size = data.get("size")
    if size is not None:
        size = tuple(_numbers(size, "state.size", 2, 1, MAX_SIDE))
        if any(side != int(side) for side in size):
            raise StateError(f"state.size is {shown(data['size'])}, but whole pixels are expected; {RENEW}.")
        size = (int(size[0]), int(size[1]))
    entries = _list(data["objects"], "state.objects", MAX_OBJECTS)
    return ClickState(size, tuple(_object(entry, f"state.objects[{i}]") for i, entry in enumerate(entries)))


def parse_points(positive: Any, negative: Any) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Points from the strings of two inputs, such as `[{"x": 10, "y": 20}]`; None and empty strings have none.

    Args:
        positive: the string of `positive_coords`.
        negative: that of `negative_coords`.

    Raises:
        StateError: another form.
    """
    names = ("positive_coords", "negative_coords")
    try:
        return read_points(parse(positive, names[0]), parse(negative, names[1]), names=names)
    except ValueError as error:
        raise StateError(str(error)) from None


def points_json(points: tuple[Point, ...]) -> str:
    """The string form of points."""
    return json.dumps([{"x": _short(x), "y": _short(y)} for x, y in points])


def with_points(
    state: ClickState, size: tuple[int, int], positive: tuple[Point, ...], negative: tuple[Point, ...]
) -> ClickState:
    """The state with more points for its first object that is on, or for a new object.

    Args:
        state: of the node.
        size: width and height of the image that the points refer to.
        positive: points on the object.
        negative: points outside it.
    """
    if not positive and not negative:
        return state
    objects = list(state.objects)
    index = next((i for i, each in enumerate(objects) if each.on), None)
    if index is None:
        index = len(objects)
        objects.append(ClickObject(f"Object {index + 1}"))
    own = state.size or size
    more = ClickObject("", positive=positive, negative=negative).scaled(own[0] / size[0], own[1] / size[1])
    first = objects[index]
    objects[index] = dataclasses.replace(
        first, positive=first.positive + more.positive, negative=first.negative + more.negative
    )
    return ClickState(state.size, tuple(objects))


def _object(data: Any, what: str) -> ClickObject:
    data = _dict(data, what, OBJECT_KEYS, {"name"})
    name, colour, on = data["name"], data.get("colour", DEFAULT_COLOUR), data.get("on", True)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable() or not name.strip():
        raise StateError(f"{what}.name is {shown(name)}, but 1 to {MAX_NAME} visible characters are expected; name it.")
    if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise StateError(f"{what}.colour is {shown(colour)}, but one such as '{DEFAULT_COLOUR}' is expected; {RENEW}.")
    auto = data.get("auto", False)
    for key, value in (("on", on), ("auto", auto)):
        if not isinstance(value, bool):
            raise StateError(f"{what}.{key} is {shown(value)}, but true or false is expected; {RENEW}.")
    take = _number(data.get("take", 0), f"{what}.take", 0, MAX_TAKE)
    if take % 1:
        raise StateError(f"{what}.take is {shown(data['take'])}, but a whole number is expected; {RENEW}.")
    box = data.get("box")
    if box is not None:
        box = _numbers(box, f"{what}.box", 4, 0, MAX_SIDE)
        if not (box[0] < box[2] and box[1] < box[3]):
            raise StateError(f"{what}.box is {shown(box)}, but left, top, right, bottom are expected; {RENEW}.")
    try:
        positive, negative = read_points(
            data.get("positive", []),
            data.get("negative", []),
            names=(f"{what}.positive", f"{what}.negative"),
            most=MAX_POINTS,
        )
    except ValueError as error:
        raise StateError(str(error)) from None
    return ClickObject(
        name=name.strip(),
        colour=colour.lower(),
        on=on,
        gain_db=_number(data.get("gain_db", 0.0), f"{what}.gain_db", *GAINS),
        positive=positive,
        negative=negative,
        box=box and (box[0], box[1], box[2], box[3]),
        auto=auto,
        take=int(take),
    )


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{what} is not JSON ({str(error)[:80]}), but JSON is expected; {RENEW}.") from error


def _dict(data: Any, what: str, known: set[str], needed: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise StateError(f"{what} is {shown(data)}, but a JSON object is expected; {RENEW}.")
    if strange := sorted(data.keys() - known):
        raise StateError(f"{what} has {shown(strange[0])}, but only {', '.join(sorted(known))} are expected; {RENEW}.")
    if missing := sorted(needed - data.keys()):
        raise StateError(f"{what} has no {missing[0]!r}, but one is expected; {RENEW}.")
    return data


def _list(data: Any, what: str, most: int) -> list[Any]:
    if not isinstance(data, list):
        raise StateError(f"{what} is {shown(data)}, but a list is expected; {RENEW}.")
    if len(data) > most:
        raise StateError(f"{what} has {len(data)} entries, but at most {most} are expected; remove some.")
    return data


def _numbers(data: Any, what: str, count: int, low: float, high: float) -> list[float]:
    if len(data := _list(data, what, count)) != count:
        raise StateError(f"{what} is {shown(data)}, but {count} numbers are expected; {RENEW}.")
    return [_number(value, what, low, high) for value in data]


def _number(value: Any, what: str, low: float, high: float) -> float:
    checked = number(value, low, high)
    if checked is None:
        raise StateError(f"{what} is {shown(value)}, but a number from {low:g} to {high:g} is expected; {RENEW}.")
    return checked


def _short(value: float) -> float | int:
    value = round(value, 2)
    return int(value) if value == int(value) else value
