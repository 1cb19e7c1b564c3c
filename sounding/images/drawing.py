"""Mel spectrograms, masks and attention maps as images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Anchors of a dark-to-light colour scale that keeps its order in greyscale.
_SCALE = ((4, 3, 18), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))


def colour(values: Tensor) -> Tensor:
    """[...] 0..1 -> [..., 3] 0..1 on a perceptually ordered scale."""
    anchors = torch.tensor(_SCALE, device=values.device, dtype=torch.float32) / 255
    position = values.float().clamp(0, 1) * (len(anchors) - 1)
    low = position.floor().long().clamp(max=len(anchors) - 2)
    share = (position - low)[..., None]
    return anchors[low] * (1 - share) + anchors[low + 1] * share


def mel_image(mel: Tensor, *, height: int = 256, floor: float = -11.0, ceiling: float = 2.0) -> Tensor:
    """Log-mel [B, T, bands] -> images [B, height, W, 3] 0..1: time to the right, low notes at the bottom."""
    image = ((mel.detach().float().cpu() - floor) / (ceiling - floor)).clamp(0, 1).transpose(1, 2).flip(1)
    scale = height / image.shape[1]
    width = max(1, round(image.shape[2] * scale / 2))
    resized = torch.nn.functional.interpolate(image[:, None], (height, width), mode="bilinear", align_corners=False)
    return colour(resized[:, 0])


def overlay(image: Tensor, values: Tensor, *, strength: float = 0.65) -> Tensor:
    """Lay a map or mask [B, h, w] 0..1 over images [B, H, W, 3]: the higher, the more it glows.

    One image serves any number of maps.
    """
    image = image.detach().float().cpu()
    full = torch.nn.functional.interpolate(
        values.detach().float().cpu()[:, None], image.shape[1:3], mode="bilinear", align_corners=False
    ).clamp(0, 1)[:, 0]
    share = (strength * full)[..., None]
    dimmed = image * (0.45 + 0.55 * full[..., None])
    return (dimmed * (1 - share) + colour(0.35 + 0.65 * full) * share).clamp(0, 1)


def label_font(size: int) -> FreeTypeFont | ImageFont:
    """Pillow's own font; before 10.1 it has a single size."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()
