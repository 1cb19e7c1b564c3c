"""Opening image files from elsewhere: which formats are read, how large they may be, and what is wrong with one.

Nothing here decodes pixels beyond turning them upright, and every failure becomes one sentence.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from ..utils.messages import printable

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow decodes by itself, from the file alone. Others start programs (EPS), read further files, hold images of
# another size than their header says (ICO), or are no images.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "TGA", "QOI")
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 29  # a little more than `MAX_PIXELS` of four channels of 16 bits
ORIENTATION = 0x0112  # EXIF's tag

Source = str | os.PathLike[str] | IO[bytes]


class TooLarge(ValueError):
    """An image of more than `MAX_PIXELS` or `MAX_BYTES`."""


def shown(source: Source) -> str:
    """A path as it can be printed, on one line, whatever bytes its name is made of."""
    if not isinstance(source, (str, os.PathLike)):
        return "The image"
    return printable(os.fspath(source)[-400:])


def upright(image: Image) -> Image:
    """A copy of it, the right way up as far as its EXIF block can be read."""
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        way = ways.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # there are as many kinds as ways to break it, and the image itself is whole
        way = None
    if way is None:
        return image.copy()
    return image.convert("I").transpose(way) if image.mode in ("I;16B", "I;16L", "I;16N") else image.transpose(way)


@contextmanager
def reading_errors(called: str) -> Iterator[None]:
    """Say what is wrong with an image in one sentence."""
    import PIL
    import PIL.Image

    try:
        yield
    except TooLarge:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))  # Pillow's own limit comes first, and says no more than this
        many = f"{int(count[0]):,}" if count else "too many"
        raise TooLarge(
            f"{called} has {many} pixels, but at most {MAX_PIXELS:,} in all are expected; make it smaller."
        ) from None
    except PIL.UnidentifiedImageError:
        raise ValueError(
            f"{called} cannot be read as an image (its format is unknown, or its beginning is broken); give a PNG, "
            "JPEG or WebP."
        ) from None
    except MemoryError:
        raise ValueError(
            f"{called} cannot be read as an image (there is too little memory); make it smaller."
        ) from None
    except Exception as error:  # decoders raise almost every kind for broken files
        raise ValueError(f"{called} cannot be read as an image ({_line(error)}); give a PNG, JPEG or WebP.") from None


def open_bounded(path: str | os.PathLike[str], called: str) -> IO[bytes]:
    """An ordinary file of a bounded size: reading others may never end."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no ordinary file")
        if found.st_size <= MAX_BYTES:
            return open(path, "rb")
    except (OSError, ValueError) as error:  # a NUL or a lone surrogate in a name is a ValueError
        why = (error.strerror if isinstance(error, OSError) else None) or _line(error)
        raise ValueError(f"{called} cannot be read as an image ({why}); give a PNG, JPEG or WebP.") from None
    raise TooLarge(f"{called} has {found.st_size:,} bytes, but at most {MAX_BYTES:,} are expected; make it smaller.")


def check_size(size: tuple[int, int], called: str) -> None:
    """Raise `TooLarge` for more pixels than are read."""
    if size[0] * size[1] > MAX_PIXELS:
        raise TooLarge(
            f"{called} has {size[0]} x {size[1]} pixels, but at most {MAX_PIXELS:,} in all are expected; make it "
            "smaller."
        )


def _line(error: BaseException) -> str:
    """An error on one line."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__
