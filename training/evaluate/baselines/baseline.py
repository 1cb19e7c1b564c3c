"""What every system is: an item in, a waveform out. Helpers that they share."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Annotated, Protocol

from torch import Tensor

from sounding.config import SAMPLERS
from sounding.images.files import read_image, read_mask
from sounding.utils.fields import Checked, Range
from sounding.utils.messages import shown

from ..items import Item


@dataclass(frozen=True)
class Settings(Checked):
    """How sounds are generated; None is a system's own default. `cfg` and `sampler` are those of sounding models.

    Raises:
        ValueError: a number out of its range, or an unknown sampler.
    """

    seconds: Annotated[float, Range(0.5, 60)]
    steps: Annotated[int, Range(1, 1000)] | None = None
    cfg: Annotated[float, Range(0, 100)] | None = None
    sampler: str | None = None
    seed: Annotated[int, Range(0, 2**31)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler is {shown(self.sampler)}, but one of {', '.join(SAMPLERS)} is expected.")


class Baseline(Protocol):
    """A system that sounds items."""

    rate: int  # Hz of what it gives

    def generate(self, item: Item) -> Tensor:
        """The sound of an item: [samples]. The same item and settings give the same sound.

        Raises:
            ValueError: the item lacks what the system needs, such as a caption.
        """


def item_seed(settings: Settings, item: Item) -> int:
    """The seed of an item, which does not depend on what other items there are."""
    return settings.seed + (zlib.crc32(item.name.encode()) << 31)


def read_item_image(item: Item) -> Tensor:
    """The image: [1, H, W, 3] 0..1."""
    return read_image(item.image)


def read_item_mask(item: Item) -> Tensor:
    """The mask of what is selected: [1, H, W] 0..1.

    Raises:
        ValueError: there is none.
    """
    if item.mask is None:
        raise ValueError(f"{shown(item.name)} has no mask, but one is needed; put masks/{item.name}.png there.")
    return read_mask(item.mask)


def selected_caption(item: Item) -> str:
    """A phrase for what is selected.

    Raises:
        ValueError: there is none.
    """
    if not item.entry.caption:
        raise ValueError(f"{shown(item.name)} has no caption, but one is needed; write it into items.json.")
    return item.entry.caption


def scene_caption(item: Item) -> str:
    """A phrase for all objects in the image; where they are not listed, the item's caption.

    Raises:
        ValueError: there is neither.
    """
    phrases = [one.caption for one in item.entry.objects if one.caption]
    if not phrases:
        return selected_caption(item)
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def crop_object(image: Tensor, box: tuple[int, int, int, int], margin: float = 0.1) -> Tensor:
    """An object's box in an image [1, H, W, 3] with a margin (of the longer side), cut at the image's edges.

    Raises:
        ValueError: the box is not in the image.
    """
    height, width = image.shape[1:3]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"The box {box} is not in the image of {width} x {height} pixels; make the items again.")
    more = round(margin * max(right - left, bottom - top))
    return image[:, max(0, top - more) : bottom + more, max(0, left - more) : right + more]
