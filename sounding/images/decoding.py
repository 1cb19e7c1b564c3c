"""Image files: which are read, how large they may be, and what every mode of Pillow's means. Imports no torch.

One reader for the library, the command line, the nodes and training. Of several frames the first is read, turned as
its EXIF block says if that can be read. White is 255 in 8 bits a channel (CMYK, YCbCr, HSV and LAB become the RGB that
they stand for); 65535 in 16 bits; in whole numbers of 32 bits 65535 or, where larger ones occur, the most that they can
hold; in floats 1 or, where larger ones occur, the first of 255 and 65535 that is not exceeded, or the largest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .opening import FORMATS, Source, check_size, open_bounded, reading_errors, shown, upright

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ROWS = 256  # converted at once, so that no second copy of a whole image is made
BITS, SIGN = 258, 339  # TIFF's


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, the right way up, in the mode of its file; `white` is the value of white in that mode."""

    image: Image
    white: float
    unsigned: bool = False  # 32 bits that Pillow gives as if they had a sign

    @property
    def deep(self) -> bool:
        """Whether it has more than 8 bits a channel, all of them greys."""
        return self.image.mode.startswith(("I", "F"))

    def strips(self) -> Iterator[tuple[slice, DecodedImage]]:
        """All of it from top to bottom, `ROWS` at a time."""
        width, height = self.image.size
        for top in range(0, height, ROWS):
            end = min(top + ROWS, height)
            yield slice(top, end), DecodedImage(self.image.crop((0, top, width, end)), self.white, self.unsigned)

    def values(self) -> np.ndarray:
        """[H, W] of a deep image, as they are in the file."""
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
        """Opacity [H, W] float32 0..1; None of an image that has none."""
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


def decode_image(source: Source, name: str | None = None) -> DecodedImage:
    """The first frame of an image.

    Args:
        source: a file's path, or an open binary file.
        name: for messages, instead of the path.

    Raises:
        ValueError: it cannot be read as an image, is of a format that is not read, or too large (`TooLarge`).
    """
    import PIL.Image

    called = name or shown(source)
    if isinstance(source, (str, os.PathLike)):
        # Opened here, since Pillow maps some TIFFs of a path into memory, and turns those wrongly.
        with open_bounded(source, called) as file:
            return decode_image(file, called)
    PIL.Image.init()
    formats = [each for each in FORMATS if each in PIL.Image.OPEN]
    with reading_errors(called), PIL.Image.open(source, formats=formats) as picture:
        check_size(picture.size, called)
        picture.load()
        check_size(picture.size, called)  # some only know as they decode
        tags = getattr(picture, "tag_v2", {})
        unsigned = picture.mode == "I" and tags.get(BITS) == (32,) and tags.get(SIGN, (1,)) == (1,)
        turned = upright(picture)
        if turned.mode in ("I;16B", "I;16L", "I;16N"):
            return DecodedImage(turned.convert("I"), 65535.0)
        return DecodedImage(turned, _white(DecodedImage(turned, 1.0, unsigned)), unsigned)


def read_pixels(source: Source, *, white_behind: bool = True) -> np.ndarray:
    """An image as [H, W, 3] float32 0..1, laid on white where it is transparent, or with its transparency left out.

    Raises:
        ValueError: see `decode_image`.
    """
    import numpy as np

    picture = decode_image(source)
    pixels = np.empty((picture.image.height, picture.image.width, 3), np.float32)
    with reading_errors(shown(source)):
        for rows, strip in picture.strips():
            pixels[rows] = strip.colour()
            if white_behind and (alpha := strip.alpha()) is not None:
                pixels[rows] *= alpha[..., None]
                pixels[rows] += 1 - alpha[..., None]
    return pixels


def read_selection(source: Source) -> np.ndarray:
    """A mask as [H, W] float32 0..1: white selects; an image with transparency selects what is opaque.

    Raises:
        ValueError: see `decode_image`.
    """
    import numpy as np

    picture = decode_image(source)
    pixels = np.empty((picture.image.height, picture.image.width), np.float32)
    with reading_errors(shown(source)):
        for what in (DecodedImage.alpha, DecodedImage.grey):
            for rows, strip in picture.strips():
                if (values := what(strip)) is None:
                    break
                pixels[rows] = values
            else:
                if what is DecodedImage.grey or pixels.min() < 1:
                    break
    return pixels


def open_image(source: Source, name: str | None = None) -> Image:
    """An image in 8 bits, as Pillow's "L", "RGB" or, if it has transparency, "RGBA".

    Raises:
        ValueError: see `decode_image`.
    """
    picture = decode_image(source, name)
    with reading_errors(name or shown(source)):
        if not picture.deep:
            return _plain(picture.image)
        grey, alpha = _levels(picture.grey()), picture.alpha()
        if alpha is None:
            return grey
        both = grey.convert("RGBA")
        both.putalpha(_levels(alpha))
        return both


def open_mask(source: Source, name: str | None = None) -> Image:
    """A mask in greys of 8 bits ("L"): white selects; an image with transparency selects what is opaque.

    Raises:
        ValueError: see `decode_image`.
    """
    picture = open_image(source, name)
    if picture.mode == "RGBA" and (alpha := picture.getchannel("A")).getextrema() != (255, 255):
        return alpha
    return picture.convert("L")


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


def _white(picture: DecodedImage) -> float:
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
