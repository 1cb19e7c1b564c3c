"""Fréchet audio distance between two sets of embeddings (Kilgour et al., 2019), and its extrapolation over sample size.

    FAD = ||m1 - m2||^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

With S = L L', the last trace is the sum of the singular values of L1' L2. In contrast to a matrix square root of the
product this is exact for singular covariances: fewer samples than dimensions, or dimensions that never change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .intervals import Array, Figure, blocks, draw_weights, figure

LEAST = 20  # samples for an extrapolation
SIZES = 25  # that the line is fitted to, as in fadtk


@dataclass(frozen=True)
class Moments:
    """Mean [D] and scatter [D, D] (sum of products about the mean) of `count` rows, in float64."""

    count: float
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, batches: Iterable[tuple[Array, Array | None]]) -> Moments:
        """Of batches of rows [B, D] with their weights [B] (None: one each), which are held one at a time.

        Raises:
            ValueError: there are no rows, or some are not [B, D] of one width or not finite.
        """
        total: Moments | None = None
        for rows, weights in batches:
            rows = np.asarray(rows, np.float64)
            if rows.ndim != 2 or not np.isfinite(rows).all() or (total and total.mean.shape != rows.shape[1:]):
                raise ValueError(
                    f"Embeddings have shape {rows.shape}, but finite [items, dimensions] of one width are expected."
                )
            weights = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
            count = weights.sum()
            if count:
                mean = weights @ rows / count
                centred = (rows - mean) * np.sqrt(weights)[:, None]
                part = cls(float(count), mean, centred.T @ centred)
                total = part if total is None else total.merged(part)
        if total is None:
            raise ValueError("There are no embeddings, but at least two are expected; give more sounds.")
        return total

    @classmethod
    def of_rows(cls, rows: Array, weights: Array | None = None) -> Moments:
        """Of rows [N, D], which may be a memory map, block by block."""
        return cls.of((rows[part], None if weights is None else weights[part]) for part in blocks(len(rows)))

    def merged(self, other: Moments) -> Moments:
        """Of the rows of both (Chan et al., 1979)."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Array:
        """[D, D], divided by count - 1 as `numpy.cov` does.

        Raises:
            ValueError: there are fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"There are {self.count:g} embeddings, but at least two are expected; give more sounds.")
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Between the Gaussians of two sets; never negative.

    Raises:
        ValueError: their widths differ, or one has fewer than two rows.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"Embeddings have {len(first.mean)} and {len(second.mean)} dimensions, but one number is expected; "
            "compute both with the same model."
        )
    one, two = first.covariance, second.covariance
    overlap = np.linalg.svd(_root(one).T @ _root(two), compute_uv=False).sum()
    step = first.mean - second.mean
    return max(0.0, float(step @ step + np.trace(one) + np.trace(two) - 2 * overlap))


def _root(covariance: Array) -> Array:
    """L with L L' = covariance; directions without variance become zero."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None))


def frechet_distances(generated: Array, reference: Array, weights: Array) -> Array:
    """FAD of pairs of rows [N, D] and [N, D] for each row of weights [R, N]: [R].

    With fewer items than dimensions, the work is done in the space of items, which is smaller.

    Raises:
        ValueError: shapes differ, or there are fewer than two pairs.
    """
    count, width = generated.shape
    if generated.shape != reference.shape or count < 2:
        raise ValueError(
            f"Embeddings have shapes {generated.shape} and {reference.shape}, but two equal [items, dimensions] of at "
            "least two items are expected."
        )
    if count > width:
        return np.array(
            [
                frechet_distance(Moments.of_rows(generated, row), Moments.of_rows(reference, row))
                for row in weights.astype(np.float64)
            ]
        )
    first, second = _centred(generated, reference)
    return np.array([_small_distance(first, second, row, row) for row in weights.astype(np.float64)])


def _centred(generated: Array, reference: Array) -> tuple[Array, Array]:
    """Both in float64 about one centre, which has no effect on distances, but on rounding."""
    first, second = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    centre = (first.mean(axis=0) + second.mean(axis=0)) / 2
    return first - centre, second - centre


def _small_distance(first: Array, second: Array, weights: Array, others: Array) -> float:
    """`frechet_distance` of rows [N, D] and [M, D] with weights [N] and [M], for fewer rows than dimensions."""
    centred, means = [], []
    for rows, own in ((first, weights), (second, others)):
        chosen = own > 0
        rows, own = rows[chosen], own[chosen]
        total = own.sum()
        means.append(own @ rows / total)
        centred.append((rows - means[-1]) * np.sqrt(own / (total - 1))[:, None])
    overlap = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    spread = sum(float(np.square(rows).sum()) for rows in centred)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + spread - 2 * overlap))


def fad_infinity(generated: Array, reference: Array, *, resamples: int = 200, seed: int = 0) -> Figure:
    """FAD at infinitely many generated samples: where a line through (1 / n, FAD of n samples) meets 1 / n = 0.

    After fadtk (Gui et al., 2024): `SIZES` sizes, the whole reference, least squares. Here the samples are drawn
    without repetition and the sizes begin at a fifth of the set, so that small sets have one, too. The interval is by
    resampling the points of the line; it covers the extrapolation, not the choice of clips.

    Raises:
        ValueError: there are fewer than `LEAST` generated samples, or the widths differ.
    """
    count, width = generated.shape
    if count < LEAST:
        raise ValueError(f"There are {count} embeddings, but FAD-infinity expects at least {LEAST}; give more sounds.")
    rng = np.random.default_rng(seed)
    sizes = np.linspace(max(4, count // 5), count, SIZES).astype(int)
    draws = [np.sort(rng.permutation(count)[:size]) for size in sizes]
    if generated.shape[1:] == reference.shape[1:] and len(reference) >= 2 and max(count, len(reference)) <= width:
        first, second = _centred(generated, reference)
        ones = np.ones(len(second))
        distances = np.array([_small_distance(first[drawn], second, np.ones(len(drawn)), ones) for drawn in draws])
    else:
        whole = Moments.of_rows(reference)
        distances = np.zeros(SIZES)
        for point, drawn in enumerate(draws):
            batches = ((generated[drawn[part]], None) for part in blocks(len(drawn)))
            distances[point] = frechet_distance(Moments.of(batches), whole)
    weights = draw_weights(SIZES, resamples, seed)
    fitted = figure(np.array([_at_zero(1 / sizes, distances, row) for row in weights]), SIZES)
    return replace(fitted, count=count)


def _at_zero(x: Array, y: Array, weights: Array) -> float:
    """Where the weighted least-squares line through (x, y) meets x = 0."""
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = np.average((x - mean_x) ** 2, weights=weights)
    slope = np.average((x - mean_x) * (y - mean_y), weights=weights) / spread if spread else 0.0
    return float(mean_y - slope * mean_x)
