"""Pictures of mel spectrograms, masks and attention maps, and reading pictures from files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .files import write_atomic
from .picture_files import read_pixels, read_selection

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 88},
    "WEBP": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
}

# Anchors of a dark-to-light colour scale that keeps its order in greyscale.
_SCALE = ((4, 3, 18), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))


def colour(values: Tensor) -> Tensor:
    """[...] 0..1 -> [..., 3] 0..1 on a perceptually ordered scale."""
    anchors = torch.tensor(_SCALE, device=values.device, dtype=torch.float32) / 255
    position = values.float().clamp(0, 1) * (len(anchors) - 1)
    low = position.floor().long().clamp(max=len(anchors) - 2)
    share = (position - low)[..., None]
    return anchors[low] * (1 - share) + anchors[low + 1] * share


def mel_picture(mel: Tensor, *, height: int = 256, floor: float = -11.0, ceiling: float = 2.0) -> Tensor:
    """Log-mel [B, T, bands] -> pictures [B, height, W, 3] 0..1: time to the right, low notes at the bottom."""
    image = ((mel.detach().float().cpu() - floor) / (ceiling - floor)).clamp(0, 1).transpose(1, 2).flip(1)
    scale = height / image.shape[1]
    width = max(1, round(image.shape[2] * scale / 2))
    resized = torch.nn.functional.interpolate(image[:, None], (height, width), mode="bilinear", align_corners=False)
    return colour(resized[:, 0])


def overlay(image: Tensor, values: Tensor, *, strength: float = 0.65) -> Tensor:
    """Lay a map or mask [B, h, w] 0..1 over pictures [B, H, W, 3]: the higher, the more it glows.

    One picture serves any number of maps.
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


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """A picture file as [1, H, W, 3] float 0..1; transparent parts are laid on white. See `picture_files`.

    Raises:
        ValueError: the file cannot be read as a picture, or is too large.
    """
    return torch.from_numpy(read_pixels(path))[None]


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """A mask file as [1, H, W] float 0..1: white selects; a picture with transparency selects what is opaque.

    Raises:
        ValueError: the file cannot be read as a picture, or is too large.
    """
    return torch.from_numpy(read_selection(path))[None]


def image_format(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that the ending of `path` asks for.

    Raises:
        ValueError: an ending that is not written.
    """
    ending = Path(path).suffix.lower()
    if ending not in WRITTEN:
        raise ValueError(
            f"{Path(path).name} ends in {ending or 'nothing'}, but one of {', '.join(WRITTEN)} is expected of a "
            "picture; give it one of these endings."
        )
    return WRITTEN[ending]


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write [H, W, 3] or [H, W] 0..1 atomically, in the format that the ending of `path` asks for.

    Raises:
        ValueError: an ending that is not written.
    """
    from PIL import Image

    kind = image_format(path)
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **SETTINGS.get(kind, {}))
    write_atomic(path, buffer.getvalue())
