"""Picture files: which are read, how large they may be, and what every mode of Pillow's means. Imports no torch.

One reader for the library, the command line, the nodes and training. Of several frames the first is read, turned as
its EXIF block says if that can be read. White is 255 in 8 bits a channel (CMYK, YCbCr, HSV and LAB become the RGB that
they stand for); 65535 in 16 bits; in whole numbers of 32 bits 65535 or, where larger ones occur, the most that they can
hold; in floats 1 or, where larger ones occur, the first of 255 and 65535 that is not exceeded, or the largest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ..utils.messages import printable

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# What Pillow decodes by itself, from the file alone. Others start programs (EPS), read further files, hold pictures of
# another size than their header says (ICO), or are no pictures.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "TGA", "QOI")
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 29  # a little more than `MAX_PIXELS` of four channels of 16 bits
ROWS = 256  # converted at once, so that no second copy of a whole picture is made
ORIENTATION = 0x0112  # EXIF's tag
BITS, SIGN = 258, 339  # TIFF's

Source = str | os.PathLike[str] | IO[bytes]


class TooLarge(ValueError):
    """A picture of more than `MAX_PIXELS` or `MAX_BYTES`."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, the right way up, in the mode of its file; `white` is the value of white in that mode."""

    image: Image
    white: float
    unsigned: bool = False  # 32 bits that Pillow gives as if they had a sign

    @property
    def deep(self) -> bool:
        """Whether it has more than 8 bits a channel, all of them greys."""
        return self.image.mode.startswith(("I", "F"))

    def strips(self) -> Iterator[tuple[slice, Picture]]:
        """All of it from top to bottom, `ROWS` at a time."""
        width, height = self.image.size
        for top in range(0, height, ROWS):
            end = min(top + ROWS, height)
            yield slice(top, end), Picture(self.image.crop((0, top, width, end)), self.white, self.unsigned)

    def values(self) -> np.ndarray:
        """[H, W] of a deep picture, as they are in the file."""
        import numpy as np

        values = np.asarray(self.image)
        return values.view(np.uint32) if self.unsigned else values

    def colour(self) -> np.ndarray:
        """[H, W, 3] float32 0..1, whatever its transparency."""
        import numpy as np

        if self.deep:
            return np.repeat(self._scaled()[..., None], 3, axis=2)
        return _divided(_plain(self.image).convert("RGB"))

    def grey(self) -> np.ndarray:
        """[H, W] float32 0..1, whatever its transparency."""
        return self._scaled() if self.deep else _divided(_plain(self.image).convert("L"))

    def alpha(self) -> np.ndarray | None:
        """Opacity [H, W] float32 0..1; None of a picture that has none."""
        import numpy as np

        if not self.image.has_transparency_data and self.image.mode not in ("La", "RGBa"):
            return None
        if self.deep:
            return (self.values() != self.image.info["transparency"]).astype(np.float32)
        return _divided(_plain(self.image).getchannel("A"))

    def _scaled(self) -> np.ndarray:
        import numpy as np

        grey = self.values().astype(np.float32)
        grey /= self.white
        return np.clip(grey, 0, 1, out=grey)


def load_picture(source: Source, name: str | None = None) -> Picture:
    """The first frame of a picture.

    Args:
        source: a file's path, or an open binary file.
        name: for messages, instead of the path.

    Raises:
        ValueError: it cannot be read as a picture, is of a format that is not read, or too large (`TooLarge`).
    """
    import PIL.Image

    called = name or shown(source)
    if isinstance(source, (str, os.PathLike)):
        # Opened here, since Pillow maps some TIFFs of a path into memory, and turns those wrongly.
        with _opened(source, called) as file:
            return load_picture(file, called)
    PIL.Image.init()
    formats = [each for each in FORMATS if each in PIL.Image.OPEN]
    with _errors(called), PIL.Image.open(source, formats=formats) as picture:
        _check_size(picture.size, called)
        picture.load()
        _check_size(picture.size, called)  # some only know as they decode
        tags = getattr(picture, "tag_v2", {})
        unsigned = picture.mode == "I" and tags.get(BITS) == (32,) and tags.get(SIGN, (1,)) == (1,)
        upright = _turned(picture)
        if upright.mode in ("I;16B", "I;16L", "I;16N"):
            return Picture(upright.convert("I"), 65535.0)
        return Picture(upright, _white(Picture(upright, 1.0, unsigned)), unsigned)


def read_pixels(source: Source, *, white_behind: bool = True) -> np.ndarray:
    """A picture as [H, W, 3] float32 0..1, laid on white where it is transparent, or with its transparency left out.

    Raises:
        ValueError: see `load_picture`.
    """
    import numpy as np

    picture = load_picture(source)
    pixels = np.empty((picture.image.height, picture.image.width, 3), np.float32)
    with _errors(shown(source)):
        for rows, strip in picture.strips():
            pixels[rows] = strip.colour()
            if white_behind and (alpha := strip.alpha()) is not None:
                pixels[rows] *= alpha[..., None]
                pixels[rows] += 1 - alpha[..., None]
    return pixels


def read_selection(source: Source) -> np.ndarray:
    """A mask as [H, W] float32 0..1: white selects; a picture with transparency selects what is opaque.

    Raises:
        ValueError: see `load_picture`.
    """
    import numpy as np

    picture = load_picture(source)
    pixels = np.empty((picture.image.height, picture.image.width), np.float32)
    with _errors(shown(source)):
        for what in (Picture.alpha, Picture.grey):
            for rows, strip in picture.strips():
                if (values := what(strip)) is None:
                    break
                pixels[rows] = values
            else:
                if what is Picture.grey or pixels.min() < 1:
                    break
    return pixels


def open_picture(source: Source, name: str | None = None) -> Image:
    """A picture in 8 bits, as Pillow's "L", "RGB" or, if it has transparency, "RGBA".

    Raises:
        ValueError: see `load_picture`.
    """
    picture = load_picture(source, name)
    with _errors(name or shown(source)):
        if not picture.deep:
            return _plain(picture.image)
        grey, alpha = _levels(picture.grey()), picture.alpha()
        if alpha is None:
            return grey
        both = grey.convert("RGBA")
        both.putalpha(_levels(alpha))
        return both


def open_mask(source: Source, name: str | None = None) -> Image:
    """A mask in greys of 8 bits ("L"): white selects; a picture with transparency selects what is opaque.

    Raises:
        ValueError: see `load_picture`.
    """
    picture = open_picture(source, name)
    if picture.mode == "RGBA" and (alpha := picture.getchannel("A")).getextrema() != (255, 255):
        return alpha
    return picture.convert("L")


def shown(source: Source) -> str:
    """A path as it can be printed, on one line, whatever bytes its name is made of."""
    if not isinstance(source, (str, os.PathLike)):
        return "The picture"
    return printable(os.fspath(source)[-400:])


def _plain(image: Image) -> Image:
    """8 bits of any mode as "L", "RGB" or "RGBA"."""
    if image.mode in ("La", "RGBa"):  # premultiplied; Pillow turns each into its plain form alone
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _divided(image: Image) -> np.ndarray:
    import numpy as np

    values = np.asarray(image, np.float32)
    return np.divide(values, 255, out=values if values.flags.writeable else None)


def _levels(values: np.ndarray) -> Image:
    import numpy as np
    import PIL.Image

    return PIL.Image.fromarray(np.round(values * 255).astype(np.uint8))


def _white(picture: Picture) -> float:
    """See this module's text."""
    import numpy as np

    if not picture.deep:
        return 255.0
    if picture.image.mode.startswith("I;16"):
        return 65535.0
    ends = [(float(values.min()), float(values.max())) for values in (strip.values() for _, strip in picture.strips())]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("some of its values are no finite numbers")
    if picture.image.mode == "I":
        return 65535.0 if high <= 65535 else 2.0**32 - 1 if picture.unsigned else 2.0**31 - 1
    if high <= 2:  # resampling goes a little beyond 1
        return 1.0
    return next((most for most in (255.0, 65535.0) if high <= most + 1), high)


def _turned(image: Image) -> Image:
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
    except Exception:  # there are as many kinds as ways to break it, and the picture itself is whole
        way = None
    if way is None:
        return image.copy()
    return image.convert("I").transpose(way) if image.mode in ("I;16B", "I;16L", "I;16N") else image.transpose(way)


@contextmanager
def _errors(called: str) -> Iterator[None]:
    """Say what is wrong with a picture in one sentence."""
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
            f"{called} cannot be read as a picture (its format is unknown, or its beginning is broken); give a PNG, "
            "JPEG or WebP."
        ) from None
    except MemoryError:
        raise ValueError(
            f"{called} cannot be read as a picture (there is too little memory); make it smaller."
        ) from None
    except Exception as error:  # decoders raise almost every kind for broken files
        raise ValueError(f"{called} cannot be read as a picture ({_line(error)}); give a PNG, JPEG or WebP.") from None


def _opened(path: str | os.PathLike[str], called: str) -> IO[bytes]:
    """An ordinary file of a bounded size: reading others may never end."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no ordinary file")
        if found.st_size <= MAX_BYTES:
            return open(path, "rb")
    except (OSError, ValueError) as error:  # a NUL or a lone surrogate in a name is a ValueError
        why = (error.strerror if isinstance(error, OSError) else None) or _line(error)
        raise ValueError(f"{called} cannot be read as a picture ({why}); give a PNG, JPEG or WebP.") from None
    raise TooLarge(f"{called} has {found.st_size:,} bytes, but at most {MAX_BYTES:,} are expected; make it smaller.")


def _check_size(size: tuple[int, int], called: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise TooLarge(
            f"{called} has {size[0]} x {size[1]} pixels, but at most {MAX_PIXELS:,} in all are expected; make it "
            "smaller."
        )


def _line(error: BaseException) -> str:
    """An error on one line."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__
