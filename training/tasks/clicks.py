"""Clicks as people make them, from the true mask: inside the object first, then where the answer is most wrong.

The protocol is that of interactive segmentation (Xu et al. 2016, RITM): the next click lies deepest inside the
largest connected region of error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Click:
    """A point in pixels (centres are at .5), for the object or against."""

    x: float
    y: float
    positive: bool


def _depth(region: np.ndarray) -> np.ndarray:
    """[H, W] distance of each pixel of a region to its outside; the image's edge is outside."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))
    return np.asarray(depth[1:-1, 1:-1])


def _pick(region: np.ndarray, rng: np.random.Generator | None) -> tuple[float, float]:
    """A point of a region: drawn with a weight of its depth squared, or, without `rng`, the deepest."""
    depth = _depth(region)
    if rng is None:
        place = int(depth.argmax())
    else:
        weights = np.cumsum(depth.ravel() ** 2)
        place = min(int(np.searchsorted(weights, rng.random() * weights[-1], side="right")), depth.size - 1)
    y, x = divmod(place, region.shape[1])
    return x + 0.5, y + 0.5


def first_click(mask: np.ndarray, rng: np.random.Generator | None = None) -> Click:
    """A click on the object of a mask [H, W] bool.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("The mask is empty, but an object to click on is expected; choose another.")
    return Click(*_pick(mask, rng), True)


def next_click(mask: np.ndarray, answer: np.ndarray, rng: np.random.Generator | None = None) -> Click:
    """A click on the largest region where the answer [H, W] bool is wrong; on the object where it is right."""
    best, region, positive = 0, mask, True
    for error, sign in ((mask & ~answer, True), (answer & ~mask, False)):
        parts, count = ndimage.label(error)
        if not count:
            continue
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() > best:
            best, region, positive = int(sizes.max()), parts == sizes.argmax() + 1, sign
    if not region.any():
        return Click(mask.shape[1] / 2, mask.shape[0] / 2, False)  # nothing to find and nothing found
    return Click(*_pick(region, rng), positive)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a mask [H, W] bool selects; it selects something."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def jittered_box(mask: np.ndarray, rng: np.random.Generator, share: float = 0.08) -> tuple[float, float, float, float]:
    """The bounds x0, y0, x1, y1 of a mask [H, W] bool, each moved by up to `share` of the box's size."""
    x0, y0, x1, y1 = bounds(mask)
    height, width = mask.shape
    moves = rng.uniform(-share, share, 4) * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    sides = np.clip(np.array([x0, y0, x1, y1]) + moves, 0, [width, height, width, height])
    return float(sides[0]), float(sides[1]), float(sides[2]), float(sides[3])
