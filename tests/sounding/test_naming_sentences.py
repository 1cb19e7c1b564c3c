"""Names to sentences."""

from __future__ import annotations

import pytest

from sounding.naming.names import UNKNOWN, Named
from sounding.naming.sentences import joined, sentences, with_article

DOG = Named("dog", 0.6, (("dog", 0.6), ("wolf", 0.3), ("fox", 0.1)))
BIRD = Named("bird", 0.9, (("owl", 0.6), ("finch", 0.3), ("jay", 0.1)))
NOTHING = Named(UNKNOWN, 0.08, (("nail", 0.08), ("web", 0.05)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dog", "a dog"),
        ("owl", "an owl"),
        ("hourglass", "an hourglass"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("ukulele", "a ukulele"),
        ("acoustic guitar", "an acoustic guitar"),
        ("rain", "rain"),
        ("heavy rain", "heavy rain"),
        ("sea", "the sea"),
        ("sea lion", "a sea lion"),
        ("scissors", "scissors"),
        ("walrus", "a walrus"),
        ("penguins", "penguins"),
        ("sheep", "a sheep"),
        ("wine glass", "a wine glass"),
        ("typing", "typing"),
        ("wing", "a wing"),
        ("the sea", "the sea"),
    ],
)
def test_articles(name: str, sentence: str) -> None:
    assert with_article(name) == sentence


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("dog", None, "a dog"),
        ("dog", "  ", "a dog"),
        ("dog", "barking  twice", "a dog barking twice"),
        ("dog", "two dogs howl", "two dogs howl"),
        ("acoustic guitar", "a guitar strumming", "a guitar strumming"),
        ("dog", "a cat meowing", "a cat meowing"),
        ("cat", "category", "a cat category"),
        ("bus", "braking", "a bus braking"),
    ],
)
def test_text_joins_the_name(name: str, text: str | None, sentence: str) -> None:
    assert joined(name, text) == sentence


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name is empty, but the name of an object is expected"):
        with_article("  ")


def test_likely_specific_names_stand_for_a_general_one() -> None:
    assert sentences(BIRD, "far away") == [("a bird far away", 1.0)]
    assert sentences(BIRD, likely=2) == [("an owl", pytest.approx(2 / 3)), ("a finch", pytest.approx(1 / 3))]
    assert sentences(BIRD, "far away", likely=3)[2] == ("a jay far away", pytest.approx(0.1))
    assert sentences(BIRD, "two owls", likely=3) == [("two owls", 1.0)]
    assert sentences(BIRD, "a bird far away", likely=3) == [("a bird far away", 1.0)]


def test_only_kinds_of_the_general_name_stand_for_it() -> None:
    cow = Named("animal", 0.8, (("dog", 0.4), ("muzzle", 0.2), ("cow", 0.3)), (("dog", 0.4), ("cow", 0.3)))
    assert [sentence for sentence, _ in sentences(cow, likely=3)] == ["a dog", "a cow"]
    assert sentences(cow, "a cow mooing", likely=3) == [("a cow mooing", 1.0)]


def test_a_specific_name_stands_alone() -> None:
    assert sentences(DOG, "barking twice", likely=3) == [("a dog barking twice", 1.0)]


def test_where_no_name_is_sure_words_or_likely_names_stand_for_it() -> None:
    assert sentences(NOTHING, "a hammer on a nail", likely=3) == [("a hammer on a nail", 1.0)]
    assert sentences(NOTHING) == [("a nail", 1.0)]
    assert sentences(NOTHING, likely=3) == [("a nail", pytest.approx(8 / 13)), ("a web", pytest.approx(5 / 13))]


def test_at_least_one_name_is_taken() -> None:
    with pytest.raises(ValueError, match="likely_names is 0, but 1 or more is expected"):
        sentences(DOG, likely=0)
