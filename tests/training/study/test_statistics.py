"""Statistics of ratings against scipy, scikit-learn, published examples and definitions written out."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from training.evaluate.study.statistics import (
    cohen_kappas,
    crossed_interval,
    holm,
    krippendorff_alpha,
    mean_of,
    paired_test,
)

X = np.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): examples A, B and C with its results.
BINARY = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], float)
NOMINAL = np.array([[ord(c) for c in "aabbdcccedda"], [ord(c) for c in "babbbccceddd"]], float)
FOUR = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
        [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
    ]
)


@pytest.mark.parametrize(
    ("ratings", "metric", "published"),
    [
        (BINARY, "nominal", 0.095),
        (NOMINAL, "nominal", 0.692),
        (FOUR, "nominal", 0.743),
        (FOUR, "ordinal", 0.815),
        (FOUR, "interval", 0.849),
    ],
)
def test_alpha_is_that_of_the_published_examples(ratings: np.ndarray, metric: str, published: float):
    found = krippendorff_alpha(ratings, metric)  # type: ignore[arg-type]
    assert found.value == pytest.approx(published, abs=5e-4)
    assert found.low <= found.value <= found.high


def some_ratings(raters: int, samples: int, missing: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 6, samples)
    ratings = (truth + rng.integers(-1, 2, (raters, samples))).clip(1, 5).astype(float)
    ratings[rng.random(ratings.shape) < missing] = np.nan
    return ratings


# By the package krippendorff 0.9.0 (PyPI), which also gives the five published examples above, to 1e-15 as here.
PACKAGE = {"nominal": 0.32765151515151514, "ordinal": 0.7474338336945062, "interval": 0.7677047083667946}


@pytest.mark.parametrize("metric", PACKAGE)
def test_alpha_is_that_of_an_independent_package(metric: str):
    """Five raters who each leave out some of twenty samples."""
    found = krippendorff_alpha(some_ratings(5, 20, missing=0.3), metric, draws=0)  # type: ignore[arg-type]
    assert found.value == pytest.approx(PACKAGE[metric], abs=1e-12)


def test_alpha_is_the_mean_squared_difference_within_samples_over_that_of_all():
    ratings = some_ratings(5, 20, missing=0.3)
    samples = [values for column in ratings.T if len(values := column[np.isfinite(column)]) >= 2]
    within = [(a - b) ** 2 / (len(values) - 1) for values in samples for a, b in permutations(values, 2)]
    between = [(a - b) ** 2 for a, b in permutations(np.concatenate(samples), 2)]
    n = sum(map(len, samples))
    expected = 1 - (sum(within) / n) / (sum(between) / (n * (n - 1)))
    assert krippendorff_alpha(ratings, "interval").value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weights", [None, "quadratic"])
def test_kappa_is_that_of_scikit_learn_for_every_pair(weights: str | None):
    ratings = some_ratings(6, 30, missing=0.4)
    expected = []
    for one, other in combinations(ratings, 2):
        both = np.isfinite(one) & np.isfinite(other)
        if both.sum() >= 10:
            kappa = cohen_kappa_score(one[both], other[both], labels=[1, 2, 3, 4, 5], weights=weights)
            expected.append(kappa)
    assert 3 < len(expected) < 15
    found = cohen_kappas(ratings, quadratic=weights is not None, least=10)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_agreement_where_there_is_nothing_to_agree_on():
    assert len(cohen_kappas(np.full((3, 9), 4.0))) == 0
    assert np.isnan(krippendorff_alpha(np.full((3, 9), 4.0), "ordinal").value)
    assert np.isnan(krippendorff_alpha(np.array([[1, X], [X, 2]]), "ordinal").value)
    assert krippendorff_alpha(np.array([[1, 2, 5], [1, 2, 5]], float), "ordinal").value == 1
    assert cohen_kappas(np.array([[1, 2, 5, 1, 2], [1, 2, 5, 1, 2]], float)).tolist() == [1]


def test_means_and_paired_tests_are_those_of_scipy():
    a, b = some_ratings(1, 25, 0, seed=1)[0], some_ratings(1, 25, 0, seed=2)[0] + 0.3
    found = mean_of(np.append(a, np.nan))
    low, high = stats.t.interval(0.95, 24, loc=a.mean(), scale=stats.sem(a))
    assert (found.value, found.low, found.high, found.count) == (a.mean(), pytest.approx(low), pytest.approx(high), 25)
    test, expected = paired_test(a - b), stats.ttest_rel(a, b)
    assert (test.t, test.p, test.df) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue), 24)
    interval = expected.confidence_interval()
    assert (test.low, test.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert np.isnan(paired_test(np.array([1.0])).p)
    assert np.isnan(paired_test(np.full(5, 2.0)).p)


def test_holm_is_bonferroni_closed_over_all_subsets():
    p = np.array([0.013, 0.04, 0.6, 0.001, 0.03, 0.03])
    subsets = [each for size in range(1, 7) for each in combinations(range(6), size)]
    closed = [max(min(1, len(each) * p[list(each)].min()) for each in subsets if i in each) for i in range(6)]
    np.testing.assert_allclose(holm(p), closed)
    with_gap = holm(np.insert(p, 2, np.nan))
    assert np.isnan(with_gap[2])
    np.testing.assert_allclose(np.delete(with_gap, 2), closed)
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R's p.adjust


@pytest.mark.parametrize("axis", [0, 1])
def test_the_crossed_interval_takes_raters_and_samples_as_drawn(axis: int):
    """Where all variation is between raters (or samples), it is the bootstrap over their means."""
    effect = np.random.default_rng(0).normal(3, 1, 40)
    ratings = np.tile(effect, (15, 1)) if axis else np.tile(effect[:, None], (1, 15))
    reference = stats.bootstrap((effect,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    low, high = crossed_interval(ratings)
    assert (low, high) == (pytest.approx(reference.low, abs=0.04), pytest.approx(reference.high, abs=0.04))
    single = mean_of(ratings.ravel())
    assert high - low > 3 * (single.high - single.low)  # which takes 600 ratings for independent
    assert np.isnan(crossed_interval(ratings[:1])).all()
