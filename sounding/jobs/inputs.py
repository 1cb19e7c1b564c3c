"""What a job reads: its image, its masks and the places of what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..audio.placing import Place, places_of
from ..conditioning import parts_to_ground
from ..encoders.patches import blended, check_orientation
from ..images.files import read_image, read_mask

if TYPE_CHECKING:
    from ..cli.options import GenerateOptions
    from ..config import SoundingConfig


@dataclass(frozen=True)
class Inputs:
    """The files of one job, read."""

    image: Tensor  # [1, H, W, 3] 0..1
    selection: Tensor | None  # [B, H, W] 0..1; None where a text alone selects
    negative: Tensor | None  # [1, H, W]
    places: list[Place | None] | None  # of the tracks, where they are to be placed

    @property
    def bytes(self) -> int:
        """Of memory."""
        held = (self.image, self.selection, self.negative)
        return sum(0 if one is None else one.numel() * one.element_size() for one in held)


def read_inputs(options: GenerateOptions, read: Callable[[Path], Tensor] = read_image) -> Inputs:
    """Read the files that the options name.

    Args:
        options: of the job.
        read: reads the image, as `read_image` does.

    Raises:
        ValueError: a file cannot be read as an image, is too large, or a mask is turned against the image.
    """
    pixels = read(options.image)
    selection = None if options.text is not None and not options.masks else read_masks(options.masks, pixels)
    if options.blend and selection is not None:
        selection = blended(selection)
    negative = None if options.negative_mask is None else read_masks([options.negative_mask], pixels)
    places = None
    if options.place and selection is not None:
        places = places_of(selection, None if options.depth is None else read_image(options.depth).mean(dim=-1))
    return Inputs(pixels, selection, negative, places)


def read_masks(files: Sequence[Path], image: Tensor) -> Tensor:
    """Masks of any sizes as one batch of the image's size; a white one if there are none.

    Raises:
        ValueError: see `read_inputs`.
    """
    size = (image.shape[1], image.shape[2])
    if not files:
        return torch.ones(1, *size)
    masks = [read_mask(file) for file in files]
    for one in masks:
        check_orientation((one.shape[-2], one.shape[-1]), size)
    resized = [
        torch.nn.functional.interpolate(one[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        for one in masks
    ]
    return torch.cat(resized)


def parts_for(config: SoundingConfig, options: GenerateOptions) -> set[str]:
    """Names of the parts of a checkpoint that a job needs."""
    parts = {"patches", "unet", "vae", "vocoder"}
    masked = bool(options.masks) or options.text is None
    for mask, text in ((masked, options.text), (options.negative_mask, options.negative_text)):
        if mask or text is not None:
            parts.update(parts_to_ground(config, mask=bool(mask), text=text is not None, by=options.masks_by))
    return parts
