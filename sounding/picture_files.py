"""Picture files as PIL reads them, and what a mask file selects. Imports no torch, so that commands start fast."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def open_picture(path: str | os.PathLike[str]) -> Image:
    """A picture the right way up; palettes and grey with transparency as RGBA.

    Raises:
        ValueError: the file cannot be read as a picture.
    """
    import PIL.Image
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with PIL.Image.open(path) as picture:
            picture.load()
            shown = ImageOps.exif_transpose(picture)
            return shown.convert("RGBA") if shown.mode in ("P", "LA", "PA") else shown
    except (UnidentifiedImageError, OSError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); give a PNG, JPEG or WebP.") from None


def open_mask(path: str | os.PathLike[str]) -> Image:
    """A mask in greys ("L"): white selects; a picture with transparency selects what is opaque.

    Raises:
        ValueError: the file cannot be read as a picture.
    """
    picture = open_picture(path)
    alpha = picture.convert("RGBA").getchannel("A")
    return picture.convert("L") if alpha.getextrema() == (255, 255) else alpha
