"""One honest name out of probabilities."""

from __future__ import annotations

import pytest
import torch

from sounding.naming.names import UNKNOWN, Labels, named

LABELS = Labels(("robin", "owl", "cat", "hammer", "bird", "animal"), (4, 4, 5, -1, 5, -1))


def names_of(*row: float, threshold: float = 0.5) -> tuple[str, float]:
    (found,) = named(torch.tensor([row]), LABELS, threshold, top=2)
    return found.name, round(found.probability, 4)


def test_the_most_specific_name_that_is_probable_enough_is_given() -> None:
    assert names_of(0.7, 0.1, 0.1, 0.0, 0.0, 0.0) == ("robin", 0.7)
    assert names_of(0.4, 0.3, 0.1, 0.0, 0.0, 0.0) == ("bird", 0.7)
    assert names_of(0.2, 0.1, 0.3, 0.1, 0.0, 0.0) == ("animal", 0.6)
    assert names_of(0.1, 0.1, 0.1, 0.3, 0.0, 0.0) == (UNKNOWN, 0.3)
    assert names_of(0.0, 0.0, 0.0, 0.0, 0.6, 0.0) == ("bird", 0.6)  # general names may have a probability of their own


def test_of_several_equally_specific_names_the_likelier_is_given() -> None:
    assert names_of(0.3, 0.4, 0.0, 0.0, 0.0, 0.0, threshold=0.25) == ("owl", 0.4)


def test_the_likeliest_specific_names_are_listed_in_order() -> None:
    (found,) = named(torch.tensor([[0.1, 0.2, 0.05, 0.3, 0.0, 0.0]]), LABELS, 0.5, top=3)
    assert [name for name, _ in found.top] == ["hammer", "owl", "robin"]
    assert not found.known
    assert len(named(torch.tensor([[0.1] * 6]), LABELS, 0.5, top=50)[0].top) == 6


def test_kinds_are_those_of_the_name_that_is_given() -> None:
    rows = [[0.4, 0.3, 0.1, 0.2, 0.0, 0.0], [0.6, 0.1, 0.1, 0.1, 0.0, 0.0], [0.1, 0.1, 0.1, 0.3, 0.0, 0.0]]
    bird, robin, unknown = named(torch.tensor(rows), LABELS, 0.5, top=3)
    assert [name for name, _ in bird.kinds] == ["robin", "owl"]
    assert robin.kinds == (("robin", pytest.approx(0.6)),)
    assert unknown.candidates == unknown.top


def test_no_names_are_an_error() -> None:
    with pytest.raises(ValueError, match="top is 0"):
        named(torch.zeros(1, 6), LABELS, 0.5, top=0)
