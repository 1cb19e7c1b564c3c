"""A sounding model, selected in four ways: by mask, by text, by the masked object's name, and the whole image."""

from __future__ import annotations

import torch
from torch import Tensor

from sounding.model import SoundingModel
from sounding.naming.load import Namer
from sounding.naming.sentences import sentences

from ..items import Item
from .baseline import Settings, item_seed, read_item_image, read_item_mask, selected_caption
from .text_to_audio import sounded


class Ours:
    """A sounding model; `way` is "mask", "text" (the caption of what is selected), "name" or "whole".

    By name, a namer says what the mask shows, and that sentence is the text. The mask has no further part in it.
    """

    def __init__(self, model: SoundingModel, settings: Settings, way: str, namer: Namer | None = None):
        self.model, self.settings, self.way, self.namer = model, settings, way, namer
        self.rate = model.config.audio.sample_rate

    @torch.inference_mode()
    def generate(self, item: Item) -> Tensor:
        """See `Baseline.generate`."""
        image, seed = read_item_image(item), item_seed(self.settings, item)
        if self.way == "text":
            return sounded(self.model, self.settings, seed, image=image, text=selected_caption(item))
        if self.way == "whole":
            return sounded(self.model, self.settings, seed, image=image, mask=torch.ones(1, *image.shape[1:3]))
        mask = read_item_mask(item)
        if self.way == "mask":
            return sounded(self.model, self.settings, seed, image=image, mask=mask)
        assert self.namer is not None
        (named,) = self.namer.name(image, mask)
        return sounded(self.model, self.settings, seed, image=image, text=sentences(named)[0][0])
