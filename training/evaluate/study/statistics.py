"""Statistics of ratings: intervals, agreement between raters, tests with correction.

Ratings are matrices [raters, samples] of float64, NaN where a rater did not rate a sample. Means of ratings, raters or
samples are no independent draws of each other: who rates high does so throughout, and so does what sounds well. So an
interval over single ratings, as studies commonly print it, is too narrow for "other raters and other images"; the
crossed bootstrap is not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Matrix = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval"]
DRAWS = 2000  # of a bootstrap
LEAST_COMMON = 5  # samples that two raters must share for a kappa
Compared = tuple[str, str, str, Matrix]  # scale, system, other, differences [raters, items]


@dataclass(frozen=True)
class Estimate:
    """A figure over `count` values and its 95 % interval; NaN where too few values are there."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired t-test: mean difference with its 95 % interval, t, degrees of freedom, p."""

    difference: float
    low: float
    high: float
    t: float
    df: int
    p: float


def mean_of(values: Matrix) -> Estimate:
    """Mean with Student's interval over single values; NaN are left out."""
    known = values[np.isfinite(values)]
    count = len(known)
    if count < 2:
        return Estimate(float(known.mean()) if count else float("nan"), float("nan"), float("nan"), count)
    mean, half = known.mean(), stats.t.ppf(0.975, count - 1) * known.std(ddof=1) / np.sqrt(count)
    return Estimate(float(mean), float(mean - half), float(mean + half), count)


def crossed_interval(ratings: Matrix, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean for other raters and other samples.

    Raters and samples are drawn with replacement, independently (the pigeonhole bootstrap of Owen, 2007), which errs
    on the wide side. NaN with fewer than two raters or samples.
    """
    ratings = _without_empty(ratings)
    raters, samples = ratings.shape
    if raters < 2 or samples < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    known = np.isfinite(ratings)
    by_rater = rng.multinomial(raters, np.full(raters, 1 / raters), size=draws).astype(np.float64)
    by_sample = rng.multinomial(samples, np.full(samples, 1 / samples), size=draws)
    total = ((by_rater @ np.where(known, ratings, 0)) * by_sample).sum(axis=1)
    count = ((by_rater @ known.astype(np.float64)) * by_sample).sum(axis=1)
    low, high = np.quantile(total[count > 0] / count[count > 0], [0.025, 0.975])
    return float(low), float(high)


def paired_test(differences: Matrix) -> PairedTest:
    """Student's t-test of differences against 0; NaN where fewer than two are known or all are equal."""
    known = differences[np.isfinite(differences)]
    if len(known) < 2 or np.ptp(known) == 0:
        mean = float(known.mean()) if len(known) else float("nan")
        return PairedTest(mean, *(float("nan"),) * 3, max(0, len(known) - 1), float("nan"))
    found = stats.ttest_1samp(known, 0)
    interval = found.confidence_interval(0.95)
    bounds = float(interval.low), float(interval.high)
    return PairedTest(float(known.mean()), *bounds, float(found.statistic), len(known) - 1, float(found.pvalue))


def holm(p: Matrix) -> Matrix:
    """p-values [n] adjusted for n tests by Holm's step-down procedure (1979); NaN stay, and are not counted."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def cohen_kappas(ratings: Matrix, *, quadratic: bool = False, least: int = LEAST_COMMON) -> Matrix:
    """Cohen's kappa of every two raters (1960), over the samples that both rated; quadratic weights as of 1968.

    Args:
        ratings: [raters, samples].
        quadratic: whether a disagreement counts by the square of its size.
        least: samples that two raters must share.

    Returns:
        [pairs], without the pairs that share too little or gave everything the same value.
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    kinds, raters = len(values), len(ratings)
    if kinds < 2 or raters < 2:
        return np.zeros(0)
    given = (ratings[:, :, None] == values).astype(np.float64)  # [R, S, K]
    cost = (values[:, None] - values) ** 2 if quadratic else (values[:, None] != values).astype(np.float64)
    flat = given.transpose(0, 2, 1).reshape(raters * kinds, -1)
    found = []
    for rater in range(raters - 1):
        table = (given[rater].T @ flat[(rater + 1) * kinds :].T).reshape(kinds, -1, kinds).transpose(1, 0, 2)
        count = table.sum(axis=(1, 2))
        table = table[count >= max(1, least)]
        count = count[count >= max(1, least)]
        expected = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :] / count[:, None, None]
        chance = (expected * cost).sum(axis=(1, 2))
        found.append(1 - (table * cost).sum(axis=(1, 2))[chance > 0] / chance[chance > 0])
    return np.concatenate(found)


def krippendorff_alpha(ratings: Matrix, metric: Metric, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Krippendorff's alpha of any number of raters, with ratings missing (Krippendorff, 2011).

    Args:
        ratings: [raters, samples].
        metric: how far apart two values are.
        draws: bootstrap draws of samples for the interval; 0 for none.
        seed: of the draws.

    Returns:
        An estimate over the samples that two or more rated; NaN where no two values differ.
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    given = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)  # [S, K]
    given = given[given.sum(axis=1) >= 2]
    if len(values) < 2 or not len(given):
        return Estimate(float("nan"), float("nan"), float("nan"), len(given))
    pairs = given[:, :, None] * given[:, None, :] - given[:, :, None] * np.eye(len(values))
    pairs /= given.sum(axis=1)[:, None, None] - 1  # [S, K, K], each sample's coincidences
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + draws, len(given)))
    weights[1:] = rng.multinomial(len(given), np.full(len(given), 1 / len(given)), size=draws)
    alphas = _alphas((weights @ pairs.reshape(len(given), -1)).reshape(-1, len(values), len(values)), values, metric)
    drawn = alphas[1:][np.isfinite(alphas[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(alphas[0]), float(low), float(high), len(given))


def _alphas(coincidences: Matrix, values: Matrix, metric: Metric) -> Matrix:
    """1 - observed / expected disagreement, of tables [B, K, K]."""
    margins = coincidences.sum(axis=2)  # [B, K]
    scale = {
        "nominal": np.broadcast_to(values, margins.shape),
        "interval": np.broadcast_to(values, margins.shape),
        "ordinal": margins.cumsum(axis=1) - margins / 2,  # mean ranks
    }[metric]
    apart = scale[:, :, None] - scale[:, None, :]
    distance = (values[:, None] != values).astype(np.float64) if metric == "nominal" else apart**2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * distance).sum(axis=(1, 2)) / (margins.sum(axis=1) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def means_along(ratings: Matrix, axis: int) -> Matrix:
    """Means over raters (0) or samples (1); NaN where there is no rating."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice"
        return np.nanmean(ratings, axis=axis) if ratings.size else np.zeros(0)


def _without_empty(ratings: Matrix) -> Matrix:
    known = np.isfinite(ratings)
    return ratings[known.any(axis=1)][:, known.any(axis=0)]


def matrix_of(values: Mapping[tuple[Any, Any], float]) -> Matrix:
    """Values by rater and sample as a matrix, NaN where there is none."""
    rows = {rater: row for row, rater in enumerate(sorted({rater for rater, _ in values}))}
    columns = {sample: column for column, sample in enumerate(sorted({sample for _, sample in values}))}
    matrix = np.full((len(rows), len(columns)), np.nan)
    for (rater, sample), value in values.items():
        matrix[rows[rater], columns[sample]] = value
    return matrix


def pairs_of(systems: Sequence[str], ours: str) -> list[tuple[str, str]]:
    """The pairs that are tested: `ours` with each other system, or all where `ours` is empty."""
    return [(ours, other) for other in systems if other != ours] if ours else list(combinations(systems, 2))


def crossed_tests(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Two tests per comparison, each corrected among its kind: over samples' means and over raters' means.

    A difference that holds in the first is expected of other samples with these raters, in the second of other raters
    with these samples (Clark, 1973).
    """
    tests: list[dict[str, Any]] = [{"scale": s, "system": a, "other": b} for s, a, b, _ in compared]
    for over, axis in (("samples", 0), ("raters", 1)):
        found: list[PairedTest] = [paired_test(means_along(matrix, axis)) for *_, matrix in compared]
        adjusted = holm(np.array([each.p for each in found]))
        for test, each, p in zip(tests, found, adjusted, strict=True):
            test[over] = {**asdict(each), "p_holm": float(p)}
    return tests


def json_ready(value: Any) -> Any:
    """NaN and infinities as None, which JSON has."""
    if isinstance(value, dict):
        return {key: json_ready(each) for key, each in value.items()}
    if isinstance(value, list):
        return [json_ready(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
