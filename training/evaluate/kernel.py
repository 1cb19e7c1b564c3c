"""Kernel audio distance (Chung et al., 2025): unbiased maximum mean discrepancy of embeddings with a Gaussian kernel.

    KAD = 100 * (mean of k(x, x') over x != x' + mean of k(y, y') over y != y' - 2 mean of k(x, y))
    k(a, b) = exp(-||a - b||^2 / (2 h^2)), h the median distance within the reference

As in kadtk, with its scale of 100. In contrast to FAD it is not biased by few samples, and may be negative.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel

from .intervals import Array, blocks

SCALE = 100.0
MOST_FOR_MEDIAN = 4096  # items of a larger reference are drawn, as all distances would not fit in memory


def median_distance(reference: Array, seed: int = 0) -> float:
    """Median distance between rows [N, D], the lower of two middle ones as in torch; of at most `MOST_FOR_MEDIAN` rows.

    Raises:
        ValueError: there are fewer than two rows, or half of all distances are zero, which gives the kernel no width.
    """
    if len(reference) < 2:
        raise ValueError(f"There are {len(reference)} embeddings, but at least two are expected; give more sounds.")
    if len(reference) > MOST_FOR_MEDIAN:
        drawn = np.random.default_rng(seed).permutation(len(reference))[:MOST_FOR_MEDIAN]
        reference = reference[np.sort(drawn)]
    distances = pdist(np.asarray(reference, np.float64))
    middle = (len(distances) - 1) // 2
    width = float(np.partition(distances, middle)[middle])
    if not width > 0:
        raise ValueError("Most reference sounds have the same embedding, so KAD has no kernel width; give others.")
    return width


def kernel_distances(
    generated: Array, reference: Array, weights: Array, reference_weights: Array | None = None, *, width: float = 0.0
) -> Array:
    """KAD of rows [N, D] and [M, D] for each row of weights [R, N] and [R, M] (None: the same): [R].

    A repeated item is never compared with itself. Kernels are computed block by block.

    Args:
        generated: embeddings of generated sounds.
        reference: embeddings of the reference.
        weights: how often each generated sound counts.
        reference_weights: how often each reference sound counts.
        width: of the kernel; 0 for the reference's median distance.

    Raises:
        ValueError: fewer than two rows on one side, or a reference without a median distance.
    """
    if len(generated) < 2:
        raise ValueError(f"There are {len(generated)} embeddings, but at least two are expected; give more sounds.")
    gamma = 1 / (2 * (width or median_distance(reference)) ** 2)
    others = weights if reference_weights is None else reference_weights
    within = [_within(rows, own, gamma) for rows, own in ((generated, weights), (reference, others))]
    across = _sums(generated, reference, weights, others, gamma)
    across /= weights.sum(axis=1, dtype=np.float64) * others.sum(axis=1, dtype=np.float64)
    return SCALE * (within[0] + within[1] - 2 * across)


def _within(rows: Array, weights: Array, gamma: float) -> Array:
    total, squares = weights.sum(axis=1, dtype=np.float64), np.square(weights, dtype=np.float64).sum(axis=1)
    sums = _sums(rows, rows, weights, weights, gamma) - squares  # k(x, x) is 1
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one item alone is NaN
        return sums / (total**2 - squares)


def _sums(first: Array, second: Array, weights: Array, others: Array, gamma: float) -> Array:
    """Weighted sums of k over all pairs: [R]."""
    sums = np.zeros(len(weights))
    for row in blocks(len(first)):
        rows = np.asarray(first[row], np.float64)
        for column in blocks(len(second)):
            kernel = rbf_kernel(rows, np.asarray(second[column], np.float64), gamma=gamma)
            sums += ((weights[:, row].astype(np.float64) @ kernel) * others[:, column]).sum(axis=1)
    return sums
