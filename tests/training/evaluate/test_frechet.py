"""FAD against matrix square roots, and what it does where those are singular."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from training.evaluate.frechet import Moments, fad_infinity, frechet_distance, frechet_distances
from training.evaluate.intervals import Array, draw_weights


def by_square_root(first: Array, second: Array) -> float:
    """The published formula with a matrix square root of the product, as frechet-audio-distance writes it."""
    mean = first.mean(axis=0) - second.mean(axis=0)
    one, two = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (first, second))
    root = linalg.sqrtm((one @ two).astype(complex))
    assert np.isfinite(root).all()
    return float(mean @ mean + np.trace(one) + np.trace(two) - 2 * np.trace(root).real)


def by_eigenvalues(first: Array, second: Array) -> float:
    """The same; eigenvalues of the product also exist where it has no square root."""
    mean = first.mean(axis=0) - second.mean(axis=0)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = np.sqrt(linalg.eigvals(one @ two).astype(complex)).real.sum()
    return float(mean @ mean + np.trace(one) + np.trace(two) - 2 * roots)


def embeddings(count: int, width: int, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(width).normal(size=(width, width)) * np.linspace(0.1, 2, width)
    return rng.normal(shift, 1 + 0.3 * seed, size=(count, width)) @ mixing


def distance(first: Array, second: Array) -> float:
    return frechet_distance(Moments.of_rows(first), Moments.of_rows(second))


@pytest.mark.parametrize("width", [1, 8, 40])
def test_equals_the_square_root_of_the_product(width: int) -> None:
    first, second = embeddings(300, width, 0), embeddings(200, width, 1, 0.2)
    expected = by_square_root(first, second)
    assert distance(first, second) == pytest.approx(expected, rel=1e-8)
    assert distance(second, first) == pytest.approx(expected, rel=1e-8)


def test_with_fewer_samples_than_dimensions() -> None:
    first, second = embeddings(15, 40, 0), embeddings(15, 40, 1, 0.2)
    expected = by_eigenvalues(first, second)
    assert distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distances(first, second, np.ones((1, 15)))[0] == pytest.approx(expected, rel=1e-4)


def test_equal_sets_have_no_distance() -> None:
    for rows in (embeddings(100, 20, 0), embeddings(15, 40, 0)):
        spread = np.trace(np.cov(rows, rowvar=False))
        assert 0 <= distance(rows, rows) < 1e-10 * spread
        assert 0 <= distance(rows, rows[::-1]) < 1e-10 * spread


def test_a_constant_dimension_adds_only_the_distance_of_its_means() -> None:
    first, second = embeddings(60, 10, 0), embeddings(60, 10, 1)
    expected = by_square_root(first, second)
    wider = [np.concatenate([rows, np.full((60, 1), value)], axis=1) for rows, value in ((first, 3.0), (second, 5.0))]
    assert distance(*wider) == pytest.approx(expected + 4.0, rel=1e-8)
    assert by_eigenvalues(*wider) == pytest.approx(expected + 4.0, rel=1e-4)


def test_of_one_dimension_is_known_in_closed_form() -> None:
    first, second = embeddings(50, 1, 0), embeddings(70, 1, 1, 3.0)
    expected = (first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2
    assert distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_rotating_both_sets_changes_nothing_and_scaling_squares() -> None:
    first, second = embeddings(60, 12, 0), embeddings(60, 12, 1)
    rotation = linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0]
    assert distance(first @ rotation, second @ rotation) == pytest.approx(distance(first, second), rel=1e-9)
    assert distance(3 * first + 1, 3 * second + 1) == pytest.approx(9 * distance(first, second), rel=1e-9)


def test_moments_are_streamed() -> None:
    """In batches of any size and far from zero, as numpy computes them at once."""
    rows = embeddings(5000, 6, 0) + 1e4
    moments = Moments.of((part, None) for part in np.array_split(rows, [1, 7, 7, 3000]))
    assert moments.count == 5000
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(Moments.of_rows(rows).covariance, moments.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("count", "width"), [(30, 5), (12, 20)])
def test_weights_are_repetitions(count: int, width: int) -> None:
    first, second = embeddings(count, width, 0), embeddings(count, width, 1, 0.5)
    weights = draw_weights(count, 3)
    found = frechet_distances(first, second, weights)
    for value, row in zip(found, weights.astype(int), strict=True):
        expected = by_eigenvalues(first.repeat(row, axis=0), second.repeat(row, axis=0))
        assert value == pytest.approx(expected, rel=1e-4)


def test_infinity_is_less_biased_than_few_samples() -> None:
    """Of two sets from one distribution the distance is zero in truth; few samples see more."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(150, 16)), rng.normal(size=(20_000, 16))
    found = fad_infinity(first, second)
    assert abs(found.value) < 0.25 * distance(first, second)
    assert found.low <= found.value <= found.high
    assert found.count == 150
    assert fad_infinity(first, second) == found


def test_infinity_of_few_samples_in_many_dimensions() -> None:
    """It is computed in the space of samples then, and gives what covariances and a fitted line give."""
    first, second = embeddings(24, 60, 0), embeddings(40, 60, 1, 0.5)
    rng = np.random.default_rng(0)
    sizes = np.linspace(4, 24, 25).astype(int)
    distances = [by_eigenvalues(first[rng.permutation(24)[:size]], second) for size in sizes]
    assert fad_infinity(first, second).value == pytest.approx(np.polyfit(1 / sizes, distances, 1)[1], rel=1e-4)


def test_what_has_no_distance_is_refused() -> None:
    rows = embeddings(20, 4, 0)
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        distance(rows, rows[:, :3])
    with pytest.raises(ValueError, match="There are 1 embeddings"):
        distance(rows, rows[:1])
    with pytest.raises(ValueError, match="no embeddings"):
        Moments.of_rows(rows[:0])
    with pytest.raises(ValueError, match="finite"):
        Moments.of_rows(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="at least two items"):
        frechet_distances(rows[:1], rows[:1], np.ones((1, 1)))
    with pytest.raises(ValueError, match="at least 20"):
        fad_infinity(rows[:19], rows)
