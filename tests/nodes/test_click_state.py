"""The string that keeps what was clicked: read exactly, and refused with one sentence."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sounding.segment.points

NODES = Path(__file__).parents[2] / "nodes"


def load() -> ModuleType:
    """The module alone: its package wants the host."""
    made = {name: ModuleType(name) for name in ("statepack", "statepack.nodes", "statepack.sounding")}
    made["statepack.nodes"].__path__ = [str(NODES)]
    sys.modules |= made
    sys.modules["statepack.sounding.segment"] = sounding.segment
    sys.modules["statepack.sounding.segment.points"] = sounding.segment.points
    return importlib.import_module("statepack.nodes.click.state")


state = load()


def text(**changes: Any) -> str:
    """A state with one object, changed in it (`objects=` and so on for the whole)."""
    whole = {key: changes.pop(key) for key in ("version", "size", "objects") if key in changes}
    first = {"name": "dog", "colour": "#E69F00", "on": True, "gain_db": -6, "negative": [], "box": [10, 20, 90, 60]}
    first |= {"positive": [{"x": 30, "y": 40.5}], **changes}
    return json.dumps({"version": 1, "size": [100, 80], "objects": [first], **whole})


def test_everything_is_read():
    (dog,) = state.parse_state(text(negative=[{"x": 1, "y": 2}])).objects
    assert (dog.name, dog.colour, dog.on, dog.gain_db) == ("dog", "#e69f00", True, -6.0)
    assert (dog.positive, dog.negative, dog.box) == (((30.0, 40.5),), ((1.0, 2.0),), (10.0, 20.0, 90.0, 60.0))
    assert state.parse_state(text()).size == (100, 80)


def test_little_is_needed():
    assert state.parse_state("") == state.parse_state(" \n") == state.ClickState()
    found = state.parse_state('{"version": 1, "objects": [{"name": "cow"}]}')
    assert found.size is None
    assert found.objects == (state.ClickObject("cow"),)
    assert not found.objects[0].clicked
    assert not found.objects[0].auto


def test_it_says_who_gave_the_name():
    (dog,) = state.parse_state(text(auto=True)).objects
    assert (dog.name, dog.auto) == ("dog", True)


def test_it_says_which_take_was_picked():
    (dog,) = state.parse_state(text(take=3)).objects
    assert dog.take == 3
    assert state.parse_state(text()).objects[0].take == 0


LONG = [{"x": 1, "y": 1}] * 101
CASES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "not JSON"),
    "deep": ("[" * 50_000, "not JSON"),
    "long": (" " * 200_001, "200001 characters"),
    "a list": ("[]", "a JSON object is expected"),
    "version": (text(version=2), "version 2"),
    "version true": (text(version=True), "version True"),
    "no objects": ('{"version": 1}', "no 'objects'"),
    "strange key": ('{"version": 1, "objects": [], "image": "data:"}', "'image'"),
    "size": (text(size=[100]), "2 numbers"),
    "no pixels": (text(size=[0, 80]), "from 1 to"),
    "part of a pixel": (text(size=[100.5, 80]), "whole pixels"),
    "objects": (text(objects={}), "a list is expected"),
    "too many objects": (text(objects=[{"name": "a"}] * 33), "at most 32"),
    "an object": (text(objects=["dog"]), "objects[0] is 'dog'"),
    "a strange key": (text(picture="data:"), "'picture'"),
    "no name": (text(objects=[{}]), "no 'name'"),
    "empty name": (text(name=" "), "name is ' '"),
    "name of two lines": (text(name="a\nb"), "visible characters"),
    "long name": (text(name="a" * 101), "1 to 100"),
    "name": (text(name=7), "name is 7"),
    "colour": (text(colour="red"), "colour is 'red'"),
    "on": (text(on=1), "true or false"),
    "auto": (text(auto="yes"), "auto is 'yes', but true or false"),
    "gain": (text(gain_db=25), "from -60 to 24"),
    "take": (text(take=1000), "take is 1000, but a number from 0 to 999"),
    "half a take": (text(take=1.5), "take is 1.5, but a whole number"),
    "gain true": (text(gain_db=True), "gain_db is True"),
    "not a number": (text(gain_db=float("nan")), "gain_db is nan"),
    "infinite": (text(positive=[{"x": float("inf"), "y": 0}]), "positive has the point {'x': inf, 'y': 0}"),
    "huge": (text(positive=[{"x": 10**400, "y": 0}]), "positive has the point"),
    "a point of text": (text(positive=[{"x": "1", "y": 0}]), "positive has the point {'x': '1'"),
    "half a point": (text(positive=[{"x": 1}]), "an x and a y"),
    "three of a pair": (text(positive=[[1, 2, 3]]), "[1, 2, 3]"),
    "no label of a click": (text(positive=[{"x": 1, "y": 1, "label": 2}]), "the label 2"),
    "a label of text": (text(positive=[{"x": 1, "y": 1, "label": "1"}]), "the label '1'"),
    "a mapping": (text(positive={"x": 1, "y": 1}), "positive is a dict"),
    "lists in lists": (text().replace("40.5", "[" * 400 + "]" * 400), "has the point"),
    "half of a letter": (text(name="\ud800"), r"name is '\ud800'"),
    "left of the picture": (text(negative=[{"x": -1, "y": 0}]), "negative has the point"),
    "right of all pictures": (text(negative=[{"x": 32769, "y": 0}]), "0 to 32768 pixels"),
    "too many points": (text(positive=LONG), "101 points"),
    "box": (text(box=[1, 2, 3]), "4 numbers"),
    "box inside out": (text(box=[90, 20, 10, 60]), "left, top, right, bottom"),
}


@pytest.mark.parametrize("case", CASES)
def test_anything_else_is_refused_with_one_sentence(case):
    given, words = CASES[case]
    with pytest.raises(state.StateError) as caught:
        state.parse_state(given)
    said = str(caught.value)
    assert words in said
    assert "expected" in said
    assert len(said) < 300
    assert "\n" not in said


def test_points_go_in_and_out():
    points, none = state.parse_points('[{"x": 10, "y": 20.25}, {"x": 0, "y": 0}]', None)
    assert points == ((10.0, 20.25), (0.0, 0.0))
    assert none == ()
    assert json.loads(state.points_json(points)) == [{"x": 10, "y": 20.25}, {"x": 0, "y": 0}]
    assert state.parse_points("[]", state.points_json(points)) == ((), points)
    with pytest.raises(state.StateError, match="positive_coords is '10, 20', which is not JSON"):
        state.parse_points("10, 20", "")
    with pytest.raises(state.StateError, match="negative_coords is 7, but JSON as text"):
        state.parse_points("", 7)


@pytest.mark.parametrize("point", [[3, 4], {"x": 3, "y": 4, "label": 1}, {"x": 3, "y": 4.0, "id": "a"}])
def test_points_of_any_form_are_read_in_the_state_as_elsewhere(point):
    (dog,) = state.parse_state(text(positive=[point])).objects
    assert dog.positive == ((3.0, 4.0),)
    assert state.parse_points(json.dumps([point]), "") == (((3.0, 4.0),), ())


def test_a_label_says_where_a_point_belongs():
    mixed = [{"x": 1, "y": 2, "label": 1}, {"x": 3, "y": 4, "label": 0}, [5, 6]]
    (dog,) = state.parse_state(text(positive=mixed, negative=[{"x": 7, "y": 8, "label": True}])).objects
    assert dog.positive == ((1.0, 2.0), (5.0, 6.0), (7.0, 8.0))
    assert dog.negative == ((3.0, 4.0),)


def test_the_same_image_in_another_resolution():
    (dog,) = state.parse_state(text()).on_image(200, 160)
    assert (dog.positive, dog.box) == (((60.0, 81.0),), (20.0, 40.0, 180.0, 120.0))
    with pytest.raises(state.StateError, match="100 x 80 pixels, but this one has 100 x 100"):
        state.parse_state(text()).on_image(100, 100)


def test_points_have_to_be_in_the_image_and_on_the_object():
    with pytest.raises(state.StateError, match="at 101, 40, but the image has 100 x 80"):
        state.parse_state(text(positive=[{"x": 101, "y": 40}])).on_image(100, 80)
    with pytest.raises(state.StateError, match="'dog' has only points outside"):
        state.parse_state(text(positive=[], box=None, negative=[{"x": 1, "y": 1}])).on_image(100, 80)
    state.parse_state(text(positive=[], negative=[{"x": 1, "y": 1}])).on_image(100, 80)


def test_points_from_elsewhere_go_to_the_first_object_that_is_on():
    empty = state.ClickState()
    assert state.with_points(empty, (100, 80), (), ()) == empty
    (made,) = state.with_points(empty, (100, 80), ((1.0, 2.0),), ()).objects
    assert (made.name, made.positive) == ("Object 1", ((1.0, 2.0),))
    two = json.dumps({"version": 1, "objects": [{"name": "off", "on": False}, {"name": "dog"}]})
    off, dog = state.with_points(state.parse_state(two), (100, 80), (), ((3.0, 4.0),)).objects
    assert (off.clicked, dog.negative) == (False, ((3.0, 4.0),))


def test_points_from_elsewhere_are_in_pixels_of_the_image_that_came():
    clicked = state.with_points(state.parse_state(text()), (200, 160), ((50.0, 60.0),), ())
    (dog,) = clicked.on_image(200, 160)
    assert dog.positive == ((60.0, 81.0), (50.0, 60.0))
