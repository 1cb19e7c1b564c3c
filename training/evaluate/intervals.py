"""Figures with their sample counts and bootstrap intervals.

Every metric here is a function of how often each item counts: `draw_weights` gives one row of ones (the figure itself)
and rows of multinomial counts (its resamples), a metric turns them into one value per row, and `figure` into an
interval. Two systems that are measured with the same rows have a paired difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.floating]
ROWS = 2048  # of features that are held in float64 at a time


@dataclass(frozen=True)
class Figure:
    """A figure over `count` items, and its 95 % interval; NaN bounds where nothing was resampled."""

    value: float
    low: float
    high: float
    count: int


def draw_weights(count: int, resamples: int, seed: int = 0) -> Array:
    """How often each of `count` items counts: ones, then `resamples` bootstrap draws: [1 + resamples, count]."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float32)


def figure(values: Array, count: int) -> Figure:
    """The figure values[0], and the 95 % interval by its resamples values[1:].

    Distances between sets and inception scores are biased by repeated items, which every resample has. So the interval
    is that of the resampled values about their own mean, laid around the figure; for means that is the percentile
    interval. As resamples of few items vary too little, it is widened by t / z * sqrt(n / (n - 1)) (Hesterberg, 2015).
    """
    value, drawn = float(values[0]), values[1:]
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Figure(value, float("nan"), float("nan"), count)
    low, high = np.quantile(drawn, [0.025, 0.975]) - drawn.mean()
    if count > 1:
        wider = stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975) * np.sqrt(count / (count - 1))
        low, high = low * wider, high * wider
    return Figure(value, value + float(low), value + float(high), count)


def share(count: int, total: int) -> Figure:
    """The share `count` of `total`, with Wilson's 95 % interval."""
    interval = stats.binomtest(count, total).proportion_ci(0.95, "wilson")
    return Figure(count / total, float(interval.low), float(interval.high), total)


def weighted_means(values: Array, weights: Array) -> Array:
    """Means of values [N] by weights [R, N]: [R]; items without a value (NaN) are left out."""
    known = np.isfinite(values)
    chosen = weights[:, known].astype(np.float64)
    with np.errstate(invalid="ignore"):  # a resample in which no item has a value is NaN
        return chosen @ values[known].astype(np.float64) / chosen.sum(axis=1)


def blocks(count: int, rows: int = ROWS) -> Iterator[slice]:
    """Slices of at most `rows` that cover `count` rows, so that features may be memory maps of any length."""
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))
