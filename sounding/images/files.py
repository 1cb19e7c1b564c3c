"""Images and masks from files, and images to files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.files import write_atomic
from .decoding import read_pixels, read_selection

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


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """An image file as [1, H, W, 3] float 0..1; transparent parts are laid on white. See `decoding`.

    Raises:
        ValueError: the file cannot be read as an image, or is too large.
    """
    return torch.from_numpy(read_pixels(path))[None]


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """A mask file as [1, H, W] float 0..1: white selects; an image with transparency selects what is opaque.

    Raises:
        ValueError: the file cannot be read as an image, or is too large.
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
            f"{Path(path).name} ends in {ending or 'nothing'}, but one of {', '.join(WRITTEN)} is expected of an "
            "image; give it one of these endings."
        )
    return WRITTEN[ending]


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write [H, W, 3] or [H, W] 0..1 atomically, see `encode_image`."""
    write_atomic(path, encode_image(path, image))


def encode_image(path: str | os.PathLike[str], image: Tensor) -> bytes:
    """[H, W, 3] or [H, W] 0..1 as the bytes of a file, in the format that the ending of `path` asks for.

    Raises:
        ValueError: an ending that is not written.
    """
    from PIL import Image

    kind = image_format(path)
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **SETTINGS.get(kind, {}))
    return buffer.getvalue()
