"""KAD against a double loop, and that it is unbiased."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from training.evaluate import kernel
from training.evaluate.intervals import Array, draw_weights
from training.evaluate.kernel import kernel_distances, median_distance


def by_loops(first: Array, second: Array) -> float:
    """Written from the definition, pair by pair."""
    lengths = sorted(math.dist(a, b) for a, b in combinations(second, 2))
    width = lengths[(len(lengths) - 1) // 2]

    def k(a: Array, b: Array) -> float:
        return math.exp(-sum((a - b) ** 2) / (2 * width**2))

    m, n = len(first), len(second)
    within_first = sum(k(first[i], first[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_second = sum(k(second[i], second[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(k(a, b) for a in first for b in second) / (m * n)
    return 100 * (within_first + within_second - 2 * across)


@pytest.fixture
def pairs() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(0.3, 1.2, (17, 5)), rng.normal(0, 1, (17, 5))


def test_equals_a_double_loop(pairs: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pairs
    once = np.ones((1, 17))
    assert kernel_distances(first, second, once)[0] == pytest.approx(by_loops(first, second), rel=1e-9)
    monkeypatch.setattr(kernel, "blocks", lambda count: [slice(at, at + 5) for at in range(0, count, 5)])
    assert kernel_distances(first, second, once)[0] == pytest.approx(by_loops(first, second), rel=1e-9)
    fewer = kernel_distances(first[:9], second, once[:, :9], once)[0]
    assert fewer == pytest.approx(by_loops(first[:9], second), rel=1e-9)


def test_the_bandwidth_is_the_references(pairs: tuple[Array, Array]) -> None:
    first, second = pairs
    once = np.ones((1, 17))
    given = kernel_distances(first, second, once, width=median_distance(second))
    assert given[0] == kernel_distances(first, second, once)[0]
    assert kernel_distances(100 * first, 100 * second, once)[0] == pytest.approx(given[0], rel=1e-9)


def test_few_samples_do_not_bias_it() -> None:
    rng = np.random.default_rng(1)
    once = np.ones((1, 10))
    found = [kernel_distances(rng.normal(size=(10, 6)), rng.normal(size=(10, 6)), once)[0] for _ in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(200)
    assert min(found) < 0


def test_a_repeated_item_is_not_compared_with_itself(pairs: tuple[Array, Array]) -> None:
    first, second = pairs
    weights = draw_weights(17, 2)
    drawn = weights[1].astype(int)
    width = median_distance(second)
    chosen = np.repeat(np.arange(17), drawn)

    def mean_kernel(rows: Array) -> float:
        pairs = [(i, j) for i in chosen for j in chosen if i != j]
        return float(np.mean([math.exp(-(math.dist(rows[i], rows[j]) ** 2) / (2 * width**2)) for i, j in pairs]))

    across = np.mean(
        [math.exp(-(math.dist(first[i], second[j]) ** 2) / (2 * width**2)) for i in chosen for j in chosen]
    )
    expected = 100 * (mean_kernel(first) + mean_kernel(second) - 2 * across)
    assert kernel_distances(first, second, weights)[1] == pytest.approx(expected, rel=1e-6)


def test_a_large_reference_is_sampled_for_its_median(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).normal(size=(600, 3))
    whole = median_distance(rows)
    monkeypatch.setattr(kernel, "MOST_FOR_MEDIAN", 200)
    assert median_distance(rows) == pytest.approx(whole, rel=0.1)
    assert median_distance(rows) == median_distance(rows) != whole


def test_what_has_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match="same embedding"):
        median_distance(np.ones((5, 2)))
    with pytest.raises(ValueError, match="There are 1 embeddings"):
        median_distance(np.ones((1, 2)))
