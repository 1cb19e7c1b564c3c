"""Trains a small audio classifier over the kinds that a data set can teach by sight: the judge of generated sounds.

It is trained on real recordings alone, all of each kind, with strong augmentation, and never takes part in training a
generator. Kinds count alike, however many recordings they have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import resample
from sounding.config import AudioConfig
from sounding.utils.fields import Checked, Range

from ...data.object_set import ObjectSet, any_of
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from ...engine.loader import Item
from ...engine.loop import train
from ...engine.objective import Objective
from ...engine.settings import LoopConfig, Share
from ...evaluate.models.classifier import Classifier


@dataclass(frozen=True)
class ClassifierRecipe(Checked):
    """Settings of `train_classifier`."""

    loop: LoopConfig
    seconds: Annotated[float, Range(0.5, 60)] = 2.56
    smoothing: Share = 0.1


def augment(clip: Tensor, samples: int, rng: np.random.Generator) -> Tensor:
    """[any] -> [samples]: other speed, colour, noise, level, echo."""
    rate = int(SAMPLE_RATE * rng.choice([0.9, 0.95, 1.0, 1.0, 1.05, 1.1]))
    clip = resample(clip, rate, SAMPLE_RATE)
    clip = functional.pad(clip, (0, max(0, samples - len(clip))))[:samples]
    spectrum = torch.fft.rfft(clip)
    curve = torch.from_numpy(np.interp(np.linspace(0, 7, len(spectrum)), np.arange(8), rng.normal(0, 4, 8)))
    clip = torch.fft.irfft(spectrum * 10 ** (curve / 20), n=samples).float()
    if rng.random() < 0.3:
        delay = int(rng.integers(200, 3000))
        clip = clip + float(rng.uniform(0.1, 0.4)) * functional.pad(clip, (delay, 0))[:samples]
    noise = torch.from_numpy(rng.normal(0, 1, samples)).float()
    return clip + noise * clip.abs().max() * 10 ** float(rng.uniform(-4, -1.7))


def real_crops(data: ObjectSet, labels: list[int], samples: int, rng: np.random.Generator, *, strong: bool) -> Tensor:
    """[len(labels), samples]: random cuts of real recordings, augmented if `strong`."""
    if not strong:
        return torch.stack([fill(any_of(data.sounds[label], rng), samples, rng) for label in labels])
    return torch.stack([augmented(any_of(data.sounds[label], rng), samples, rng) for label in labels])


def augmented(recording: Tensor, samples: int, rng: np.random.Generator) -> Tensor:
    """A random cut of a recording [any], augmented: [samples]."""
    return augment(fill(recording, samples * 5 // 4, rng), samples, rng)


class _Items:
    """Augmented cuts of real recordings as masked log-mels, with their labels."""

    def __init__(self, data: ObjectSet, samples: int):
        self.sounds, self.samples = [sounds for _, sounds in data.visible], samples
        self.to_mel = MelSpectrogram(AudioConfig())

    def __len__(self) -> int:
        return len(self.sounds)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        mel = self.to_mel(augmented(any_of(self.sounds[index], rng), self.samples, rng)[None])[0]
        start, low = int(rng.integers(0, len(mel) - 30)), int(rng.integers(0, 56))
        silence = mel.min()
        mel[start : start + int(rng.integers(0, 30))] = silence
        mel[:, low : low + int(rng.integers(0, 8))] = silence
        return {"mel": mel, "label": index}


class _Objective(Objective):
    def __init__(self, judge: Classifier, smoothing: float):
        super().__init__()
        self.judge, self.smoothing = judge, smoothing

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = self.judge(batch["mel"]).float()
        loss = functional.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)
        return {"loss": loss, "top1": (logits.argmax(-1) == batch["label"]).float().mean()}


def train_classifier(recipe: ClassifierRecipe, data: ObjectSet, folder: Path) -> Classifier:
    """Train, or load what `folder` holds of an earlier run with the same recordings, objects and settings."""
    torch.manual_seed(recipe.loop.seed)
    items = _Items(data, round(recipe.seconds * SAMPLE_RATE))
    judge = Classifier(len(items))
    train(_Objective(judge, recipe.smoothing), items, recipe.loop, folder / f"classifier-{_content(recipe, data)}")
    return judge.cpu().eval()


def _content(recipe: ClassifierRecipe, data: ObjectSet) -> str:
    """Names all that decides what the judge learns: settings, and the recordings in the order of their labels."""
    total = hashlib.sha256(repr(recipe).encode())
    for entry, recordings in data.visible:
        for recording in recordings:
            total.update(f"{entry.name} {tuple(recording.shape)} ".encode())
            total.update(recording.float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
