"""Mel retrieval: is a generated sound nearest to its object's own recordings? No trained classifier is needed.

A sound is described by statistics of its level-free log-mel in each band: mean, deviation and mean change from frame to
frame, each in units of its deviation over all recordings. That tells most recordings apart (`MelRetrieval.recordings`
says how many); it says nothing about quality, and may confuse objects that sound almost alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import resample
from sounding.config import AudioConfig
from sounding.grounding import Condition
from sounding.model import SoundingModel

from ..data.scenes import as_tensors, make_scene
from ..data.shard_format import SAMPLE_RATE
from ..data.waveforms import fill
from .objects import TaughtObject
from .scenes import Cast

CUTS = 6  # of every recording


def mel_statistics(mel: Tensor) -> Tensor:
    """Of log-mels [B, T, 64] without their level: mean, deviation and mean change of each band: [B, 192]."""
    level = (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-9)
    change = level.diff(dim=1).abs().mean(dim=1)
    return torch.cat([level.mean(dim=1), level.std(dim=1), 4 * change], dim=1)


class MelRetrieval:
    """Ranks `objects` by how near their recordings are to sounds [B, samples] at 16 kHz."""

    def __init__(self, objects: Sequence[TaughtObject], seconds: float):
        self.to_mel = MelSpectrogram(AudioConfig())
        self.samples = round(seconds * SAMPLE_RATE)
        self.objects = objects
        cuts = [self._described(self._cuts(thing, 0)) for thing in objects]  # each [recordings * CUTS, 192]
        self.spread = torch.cat(cuts).std(dim=0).clamp(min=0.25)  # nats: what hardly differs says little
        self.centres = torch.stack([cut.mean(dim=0) for cut in cuts])

    def ranks(self, sounds: Tensor, number: int) -> list[int]:
        """The place of object `number`, from 1, among all objects by nearness to each of the sounds."""
        far = ((self._described(sounds)[:, None] - self.centres) / self.spread).square().sum(dim=-1)
        return ((far < far[:, number : number + 1]).sum(dim=1) + 1).tolist()

    def recordings(self) -> float:
        """The share of other cuts of the recordings that are nearest to their own object: the most to hope for."""
        ranks = [rank for i, thing in enumerate(self.objects) for rank in self.ranks(self._cuts(thing, 1), i)]
        return sum(rank == 1 for rank in ranks) / len(ranks)

    def _cuts(self, thing: TaughtObject, stream: int) -> Tensor:
        rng = np.random.default_rng([stream, 41])
        return torch.stack([fill(sound, self.samples, rng) for sound in thing.recordings for _ in range(CUTS)])

    def _described(self, sounds: Tensor) -> Tensor:
        return mel_statistics(self.to_mel(sounds))


def sound_of(model: SoundingModel, latents: Tensor, seconds: float) -> Tensor:
    """The sound of latents for evaluation: [B, samples] at 16 kHz on the CPU, of `seconds`, not leveled."""
    waveform = model.vocode(model.decode(latents), seconds)[:, 0].cpu()
    return resample(waveform, model.config.audio.sample_rate, SAMPLE_RATE)


@dataclass(frozen=True)
class Retrieved:
    """The sounds [each, samples] that a model made of one object, and the object's rank in each."""

    name: str
    ranks: list[int]
    sounds: Tensor


def generate_and_rank(
    model: SoundingModel,
    retrieval: MelRetrieval,
    numbers: Sequence[int],
    *,
    each: int = 2,
    steps: int = 10,
    cfg: float | None = None,
) -> list[Retrieved]:
    """Sounds of objects in images that training did not show: in scenes beside another object, or, of a photograph
    without an outline, of the whole. Always the same images and seeds.
    """
    conditions: list[Condition] = []
    for number in numbers:
        for turn in range(each):
            rng = np.random.default_rng([43, number, turn])
            cast = Cast(retrieval.objects, rng)
            picture = cast.pictures[number]
            if picture.masked:
                others = [i for i in range(len(cast)) if i != number]
                labels = (number, int(rng.choice(others))) if others else (number,)
                image, masks = as_tensors(make_scene(cast, rng, labels=labels))
            else:
                image = torch.from_numpy(np.asarray(picture.image.convert("RGB")) / np.float32(255))[None]
                masks = torch.ones(1, *image.shape[1:3])
            size = (image.shape[1], image.shape[2])
            conditions.append(model.ground(model.see(image), mask=masks[:1], image_size=size))
    seconds = retrieval.samples / SAMPLE_RATE
    made: list[Tensor] = []
    for start in range(0, len(conditions), 8):
        part = conditions[start : start + 8]
        together = Condition.cat(part)
        noise = model.noise(seconds, [start + i for i in range(len(part))])
        latents = model.sample(together, noise, steps=steps, cfg=cfg)
        made.append(sound_of(model, latents, seconds))
    sounds = torch.cat(made).unflatten(0, (len(numbers), each))
    return [
        Retrieved(retrieval.objects[number].name, retrieval.ranks(own, number), own)
        for number, own in zip(numbers, sounds, strict=True)
    ]
