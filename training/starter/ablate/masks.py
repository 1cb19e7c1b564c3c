"""Masks of one object, perfect and less so: what a user, a segmenter or an algorithm might give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from sounding.segment import Prompt, Segmenter

from ...tasks.clicks import first_click
from .rows import PERFECT, WHOLE

SHARE = 0.04  # of the image's shorter side, by which masks are eroded and dilated
SOFTNESS = 0.01  # of the same side: width of the edge of noisy logits
GRAIN = 0.06  # of the same side: how far the noise of logits is smooth


def altered(mask: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A mask [H, W] in 0..1 made worse: "eroded", "dilated" or "noisy"; "perfect" and "whole" as well.

    An eroded mask keeps at least the inner part that is deeper than six tenths of its greatest depth. The logits of a
    noisy one are its signed distance from the edge plus smooth noise, as deviant as `SHARE`.

    Raises:
        ValueError: another kind.
    """
    if kind in (PERFECT, WHOLE):
        return mask if kind == PERFECT else np.ones_like(mask)
    if kind not in ("eroded", "dilated", "noisy"):
        raise ValueError(f"The kind of mask is {kind!r}, but perfect, whole, eroded, dilated or noisy is expected.")
    side, inside = min(mask.shape), mask > 0.5
    depth, distance = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    if kind == "eroded":
        return np.asarray(depth > min(SHARE * side, 0.6 * depth.max()), np.float32)
    if kind == "dilated":
        return np.asarray(inside | (distance <= SHARE * side), np.float32)
    noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), GRAIN * side)
    logits = (depth - distance + noise / noise.std() * SHARE * side) / (SOFTNESS * side)
    return np.asarray(1 / (1 + np.exp(-logits.clip(-40, 40))), np.float32)


def clicked(segmenter: Segmenter, image: Tensor, mask: np.ndarray) -> np.ndarray:
    """What a segmenter makes of one click, deepest inside the object of a mask [H, W]: [H, W] in 0..1.

    Args:
        segmenter: any.
        image: [1, H, W, 3] in 0..1.
        mask: of the object.
    """
    click = first_click(mask > 0.5)
    found = segmenter.segment(segmenter.prepare(image), Prompt(positive=((click.x, click.y),)))
    return np.asarray(found.logits.float().sigmoid().cpu().numpy(), np.float32)


def open_segmenters(wanted: Collection[str]) -> tuple[dict[str, Segmenter], dict[str, str]]:
    """The wanted kinds of masks that segmenters make, with these, and why others cannot be used here."""
    from sounding.segment import load_segmenter

    from ..evaluate.grabcut import GrabCutSegmenter

    openers: Mapping[str, Callable[[], Segmenter]] = {"segmenter": load_segmenter, "grabcut": GrabCutSegmenter}
    found: dict[str, Segmenter] = {}
    missing: dict[str, str] = {}
    for name, opener in ((name, opener) for name, opener in openers.items() if name in wanted):
        try:
            found[name] = opener()
        except (ValueError, OSError) as error:
            missing[name] = str(error)
    return found, missing


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks [H, W], cut at one half."""
    first, second = mask > 0.5, truth > 0.5
    return float((first & second).sum() / max(1, (first | second).sum()))


def as_mask(values: np.ndarray) -> Tensor:
    """[H, W] -> [1, H, W] float."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
