"""Clicked objects to masks, in the same way for what the page shows and for what the graph gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .state import ClickObject, Point

if TYPE_CHECKING:
    from ...sounding.segment import Prompt, Segmentation

# Larger images are segmented at this size and the masks enlarged. This keeps clicking fast, and the page sees the same
# masks as the graph gets.
WORKING_SIDE = 1024


@dataclass(frozen=True)
class ObjectMask:
    """The mask of one object, in the working image."""

    mask: Tensor  # [h, w] float 0..1
    score: float  # the segmenter's own score of the mask, 0..1


def working_image(image: Tensor) -> Tensor:
    """An image [1, H, W, 3], reduced so that no side exceeds `WORKING_SIDE`: [1, h, w, 3]."""
    height, width = image.shape[1:3]
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = functional.interpolate(image.movedim(-1, 1), size, mode="bilinear", antialias=True)
    return small.movedim(1, -1).clamp(0, 1)


def segment_objects(
    segment: Callable[[Prompt], Segmentation],
    objects: Sequence[ClickObject],
    size: tuple[int, int],
    small: tuple[int, int],
) -> list[ObjectMask]:
    """The mask of each clicked object.

    Args:
        segment: makes a mask in the working image.
        objects: each with a point on it or a box, in pixels of the full image.
        size: width and height of the full image.
        small: those of the working image.
    """
    from ...sounding.segment import Prompt

    width, height = small

    def point(x: float, y: float) -> Point:
        # Rounding must not move a point on the edge out of the image.
        return min(x * width / size[0], float(width)), min(y * height / size[1], float(height))

    masks = []
    for each in objects:
        box = each.box and (*point(*each.box[:2]), *point(*each.box[2:]))
        prompt = Prompt(
            positive=tuple(point(x, y) for x, y in each.positive),
            negative=tuple(point(x, y) for x, y in each.negative),
            box=box,
        )
        made = segment(prompt)
        masks.append(ObjectMask(made.mask.detach().float().cpu().clamp(0, 1), float(made.score)))
    return masks


def sides(image: Tensor) -> tuple[int, int]:
    """Width and height of [1, H, W, 3]."""
    return image.shape[2], image.shape[1]


def full_size_masks(masks: Sequence[ObjectMask], size: tuple[int, int]) -> Tensor:
    """The masks at the full image's size (width, height): [N, H, W] float 0..1."""
    stack = torch.stack([each.mask for each in masks])
    if stack.shape[1:] == (size[1], size[0]):
        return stack
    return functional.interpolate(stack[:, None], (size[1], size[0]), mode="bilinear")[:, 0]
