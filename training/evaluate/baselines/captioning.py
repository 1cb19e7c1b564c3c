"""Captioning and Captioning & Mix (section 4.1 and table 7): an image is captioned, and the captions are sounded.

*Captioning* captions the whole image and gives the caption to a text-to-audio model. *Captioning & Mix* captions each
object by itself, sounds each caption, and mixes the sounds. Neither knows what is selected, as in the paper. The boxes
of the objects come with the items: a detector that misses none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sounding.naming.load import Namer
from sounding.naming.sentences import sentences
from sounding.utils.messages import shown

from ...data.waveforms import mix
from ..items import Item
from ..models.loading import read_pretrained
from .baseline import Settings, crop_object, item_seed, read_item_image
from .text_to_audio import TextToAudio

PROMPT = "a picture of"  # that BLIP's captioning was trained with


class Captioner(Protocol):
    """Tells what an image shows."""

    def caption(self, image: Tensor) -> str:
        """A sentence about an image [1, H, W, 3]."""


class Blip:
    """BLIP's captioning (Li et al., 2022): beam search over 3 beams, 5 to 20 tokens, as its authors call it."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @torch.inference_mode()
    def caption(self, image: Tensor) -> str:
        """See `Captioner.caption`."""
        pixels = (image[0] * 255).round().to(torch.uint8).numpy()
        inputs = self.processor(images=pixels, text=PROMPT, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        (tokens,) = self.model.generate(**inputs, num_beams=3, min_length=5, max_length=20)
        text = self.processor.decode(tokens, skip_special_tokens=True).strip().removeprefix(PROMPT).strip()
        if not text:
            raise ValueError("BLIP has no words for the image.")
        return str(text)


def read_blip(folder: Path, device: torch.device) -> Blip:
    """BLIP from a folder in transformers' form.

    Raises:
        ValueError: see `read_pretrained`.
    """
    advice = "a download of Salesforce/blip-image-captioning-base or -large"
    model, processor = read_pretrained(folder, "BlipForConditionalGeneration", "BlipProcessor", "BLIP", advice)
    return Blip(model.to(device), processor)


class NameCaptioner:
    """Stands in for BLIP: a namer's likeliest name of the whole image, as a sentence."""

    def __init__(self, namer: Namer):
        self.namer = namer

    @torch.inference_mode()
    def caption(self, image: Tensor) -> str:
        """See `Captioner.caption`."""
        (named,) = self.namer.name(image)
        return sentences(named)[0][0]


class Captioning:
    """The whole image's caption, sounded."""

    def __init__(self, captioner: Captioner, audio: TextToAudio, settings: Settings):
        self.captioner, self.audio, self.settings, self.rate = captioner, audio, settings, audio.rate

    def generate(self, item: Item) -> Tensor:
        """See `Baseline.generate`."""
        image = read_item_image(item)
        return self.audio.sound(self.captioner.caption(image), image, item_seed(self.settings, item))


class CaptioningAndMix:
    """Each object's crop captioned and sounded by itself, and all mixed at equal loudness."""

    def __init__(self, captioner: Captioner, audio: TextToAudio, settings: Settings):
        self.captioner, self.audio, self.settings, self.rate = captioner, audio, settings, audio.rate

    def generate(self, item: Item) -> Tensor:
        """See `Baseline.generate`; each object has a seed of its own."""
        if not item.entry.objects:
            raise ValueError(f"{shown(item.name)} lists no objects, but their boxes are needed; see items.json.")
        image, seed = read_item_image(item), item_seed(self.settings, item)
        sounds = []
        for number, thing in enumerate(item.entry.objects):
            crop = crop_object(image, thing.box)
            sounds.append(self.audio.sound(self.captioner.caption(crop), crop, seed + number))
        return mix(sounds, [0.0] * len(sounds))
