"""The string that keeps what was clicked: read exactly, and refused with one sentence."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "nodes" / "click_state.py"


def load() -> ModuleType:
    """The module alone: its package wants the host."""
    spec = importlib.util.spec_from_file_location("click_state", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["click_state"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
    "gain": (text(gain_db=25), "from -60 to 24"),
    "gain true": (text(gain_db=True), "gain_db is True"),
    "not a number": (text(gain_db=float("nan")), "gain_db is nan"),
    "infinite": (text(positive=[{"x": float("inf"), "y": 0}]), "positive[0].x is inf"),
    "huge": (text(positive=[{"x": 10**400, "y": 0}]), "positive[0].x"),
    "a point of text": (text(positive=[{"x": "1", "y": 0}]), "positive[0].x is '1'"),
    "a pair": (text(positive=[[1, 2]]), "positive[0] is [1, 2]"),
    "half a point": (text(positive=[{"x": 1}]), "no 'y'"),
    "a point with more": (text(positive=[{"x": 1, "y": 1, "z": 1}]), "'z'"),
    "left of the picture": (text(negative=[{"x": -1, "y": 0}]), "negative[0].x is -1"),
    "too many points": (text(positive=LONG), "101 entries"),
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
    points = state.parse_points('[{"x": 10, "y": 20.25}, {"x": 0, "y": 0}]', "positive_coords")
    assert points == ((10.0, 20.25), (0.0, 0.0))
    assert json.loads(state.points_json(points)) == [{"x": 10, "y": 20.25}, {"x": 0, "y": 0}]
    assert state.parse_points(state.points_json(points), "again") == points
    assert state.parse_points(None, "none") == state.parse_points("", "none") == state.parse_points("[]", "none") == ()
    with pytest.raises(state.StateError, match="positive_coords is not JSON"):
        state.parse_points("10, 20", "positive_coords")


def test_the_same_picture_in_another_resolution():
    (dog,) = state.parse_state(text()).on_picture(200, 160)
    assert (dog.positive, dog.box) == (((60.0, 81.0),), (20.0, 40.0, 180.0, 120.0))
    with pytest.raises(state.StateError, match="100 x 80 pixels, but this one has 100 x 100"):
        state.parse_state(text()).on_picture(100, 100)


def test_points_have_to_be_in_the_picture_and_on_the_object():
    with pytest.raises(state.StateError, match="at 101, 40, but the picture has 100 x 80"):
        state.parse_state(text(positive=[{"x": 101, "y": 40}])).on_picture(100, 80)
    with pytest.raises(state.StateError, match="'dog' has only points outside"):
        state.parse_state(text(positive=[], box=None, negative=[{"x": 1, "y": 1}])).on_picture(100, 80)
    state.parse_state(text(positive=[], negative=[{"x": 1, "y": 1}])).on_picture(100, 80)


def test_points_from_elsewhere_go_to_the_first_object_that_is_on():
    empty = state.ClickState()
    assert state.with_points(empty, (100, 80), (), ()) == empty
    (made,) = state.with_points(empty, (100, 80), ((1.0, 2.0),), ()).objects
    assert (made.name, made.positive) == ("Object 1", ((1.0, 2.0),))
    two = json.dumps({"version": 1, "objects": [{"name": "off", "on": False}, {"name": "dog"}]})
    off, dog = state.with_points(state.parse_state(two), (100, 80), (), ((3.0, 4.0),)).objects
    assert (off.clicked, dog.negative) == (False, ((3.0, 4.0),))


def test_points_from_elsewhere_are_in_pixels_of_the_picture_that_came():
    clicked = state.with_points(state.parse_state(text()), (200, 160), ((50.0, 60.0),), ())
    (dog,) = clicked.on_picture(200, 160)
    assert dog.positive == ((60.0, 81.0), (50.0, 60.0))
