"""Looking at masked objects one by one: crops about them, and means over their patches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..batches import paired
from ..config import PatchConfig
from ..encoders.patches import check_mask, check_orientation, mask_to_grid
from ..images.resize import resized

EMPTY = (
    "mask is empty, but it should cover the object that is to be named; paint or select something (a white mask "
    "selects the whole image)."
)


def crops(image: Tensor, mask: Tensor, margin: float) -> Iterator[tuple[Tensor, Tensor]]:
    """The part of the image about each masked object: square where the image is large enough, never beyond it.

    Args:
        image: [1, H, W, 3], or one per mask.
        mask: [B, h, w], stretched over the image.
        margin: on each side, in sizes of the object (the longer one of its bounding box).

    Yields:
        The crop [1, h, w, 3] of each mask, and the mask's [1, h, w].

    Raises:
        ValueError: an empty mask, or one that is turned against its image; numbers that do not fit.
    """
    if len(image) not in (1, len(mask)):
        raise ValueError(
            f"There are {len(image)} images and {len(mask)} masks, but equal numbers (or one image) are expected."
        )
    height, width = image.shape[1:3]
    check_orientation((mask.shape[-2], mask.shape[-1]), (height, width))
    if mask.shape[1:] != image.shape[1:3]:
        mask = resized(mask[:, None], (height, width))[:, 0].clamp(0, 1)
    for number, one in enumerate(mask):
        if not one.max() > 0:
            raise ValueError(EMPTY)
        covered = one >= one.max() / 2
        rows, columns = (covered.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        top, bottom, left, right = (int(end) for end in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        side = (1 + 2 * margin) * max(bottom - top, right - left)
        y0, y1 = _placed((top + bottom) / 2, side, height)
        x0, x1 = _placed((left + right) / 2, side, width)
        yield image[number if len(image) > 1 else 0, y0:y1, x0:x1][None], one[y0:y1, x0:x1][None]


def _placed(middle: float, side: float, extent: int) -> tuple[int, int]:
    """Begin and end of `side` pixels about `middle`, moved or cut to lie within 0..extent."""
    length = max(1, min(extent, round(side)))
    first = max(0, min(round(middle - length / 2), extent - length))
    return first, first + length


def pool_patches(patches: Tensor, mask: Tensor | None, config: PatchConfig) -> Tensor:
    """The mean of patches [B, P, L], weighted by the share that a mask [B, H, W] covers of each: [B, L] float32.

    Raises:
        ValueError: an empty mask; numbers that do not fit.
    """
    if mask is None:
        return patches.float().mean(dim=1)
    mask = check_mask(mask)
    coverage = mask_to_grid(mask, (mask.shape[-2], mask.shape[-1]), config).to(patches.device)
    if (coverage.amax(dim=-1) <= 0).any():
        raise ValueError(EMPTY)
    patches, coverage = paired(patches, coverage, "masks")
    weights = coverage / coverage.sum(dim=-1, keepdim=True)
    return torch.einsum("bp,bpl->bl", weights.float(), patches.float())
