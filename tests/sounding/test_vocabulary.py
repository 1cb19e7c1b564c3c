"""The names that a checkpoint was trained on: which of them is meant, and which are alike."""

from __future__ import annotations

import pytest

from sounding.encoders.vocabulary import Vocabulary

ANIMALS = Vocabulary(("a dog", "a brown hen", "a tiger", "a fire truck", "a fox"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dog", "a dog"),
        ("Dog", "a dog"),
        ("a small dog barks", "a dog"),
        ("hen", "a brown hen"),
        ("truck", "a fire truck"),
        ("cat", None),
        ("brown bear", None),
        ("hotdog", None),
        ("fire", None),
        ("", None),
    ],
)
def test_a_name_is_known_by_its_noun(text, name):
    assert ANIMALS.knows(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lion", "a lion"),
        ("a sea lion barks", "a sea lion"),
        ("California sea lion", "a sea lion"),
        ("mountain lion", "a lion"),
        ("truck", "a truck"),
        ("A Fire Truck!", "a fire truck"),
        ("white cow", "a white cow"),
        ("brown cow", "a cow"),
        ("sea", "the sea"),
        ("horse-drawn carriage", "a horse-drawn carriage"),
        ("carriage", "a horse-drawn carriage"),
        ("kettle", "an electric kettle"),
        ("the", None),
    ],
)
def test_a_whole_name_comes_before_a_noun(text, name):
    names = ("a sea lion", "a lion", "a fire truck", "a truck", "a cow", "a white cow", "the sea")
    assert Vocabulary((*names, "a horse-drawn carriage", "an electric kettle")).knows(text) == name


def test_lookalikes_are_the_known_ones_of_the_likely_names_in_their_order():
    likely = ["cat", "red fox", "tiger", "arctic fox", "hen", "dog"]
    assert ANIMALS.nearest_of(likely, 3) == ["a fox", "a tiger", "a brown hen"]
    assert ANIMALS.nearest_of(likely, 1) == ["a fox"]
    assert ANIMALS.nearest_of(["cat", "sofa"], 3) == []
    assert Vocabulary(()).nearest_of(likely, 3) == []
