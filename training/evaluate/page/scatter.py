"""A map of embeddings: generated and reference sounds by the first two principal components of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..folders import Side, pairs
from ..intervals import Array
from ..store import Store

MOST_POINTS = 2000  # of a system, and as many of the reference
SIZE, MARGIN = 320, 8  # pixels


@dataclass(frozen=True)
class Map:
    """One panel per system: SVG paths of dots for the reference and for the system; the share of variance shown."""

    panels: list[tuple[str, str, str]]  # name, reference's dots, system's dots
    points: int
    variance: float


def embedding_map(sides: Sequence[Side], reference: Side, seed: int = 0) -> Map | None:
    """Project a sample of all systems' pairs; None where there are too few."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    drawn = []
    for side in sides:
        names = pairs(side, reference)
        chosen = [names[at] for at in np.sort(rng.permutation(len(names))[:MOST_POINTS])]
        drawn.append((_embeddings(reference.store, chosen), _embeddings(side.store, chosen)))
    together = np.concatenate([part for both in drawn for part in both])
    if len(together) < 4 or min(together.shape) < 2:
        return None
    pca = PCA(2, svd_solver="randomized", random_state=seed).fit(together)
    places = [tuple(pca.transform(part) if len(part) else np.zeros((0, 2)) for part in both) for both in drawn]
    every = np.concatenate([part for both in places for part in both])
    low, span = every.min(axis=0), float(np.ptp(every, axis=0).max()) or 1.0
    shift = (span - np.ptp(every, axis=0)) / 2

    def dots(points: Array) -> str:
        scaled = MARGIN + (points - low + shift) / span * (SIZE - 2 * MARGIN)
        return "".join(f"M{x:.0f} {SIZE - y:.0f}h0" for x, y in scaled)

    panels = [(side.name, dots(real), dots(made)) for side, (real, made) in zip(sides, places, strict=True)]
    return Map(panels, max(len(real) for real, _ in drawn), float(pca.explained_variance_ratio_.sum()))


def _embeddings(store: Store, names: Sequence[str]) -> Array:
    """[N, D] in float32; the mean over windows where a sound has several."""
    rows = np.asarray(store.embeddings[store.rows(names)], np.float32)
    return rows.reshape(len(names), store.windows, rows.shape[1] // store.windows).mean(axis=1)
