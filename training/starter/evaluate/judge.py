"""The judge's ear and its marks: waveforms to log-probabilities, ranks, shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig

from ...data.object_set import ObjectSet
from ...evaluate.models.classifier import Classifier
from ...recipe import RECIPES, read_recipe
from .classifier import ClassifierRecipe, train_classifier


@dataclass(frozen=True)
class Score:
    """Share of sounds whose object is the judge's first guess, or among its first five."""

    top1: float
    top5: float
    count: int


class Ear(Protocol):
    """Whatever ranks all kinds for a sound: waveforms [B, samples] at 16 kHz -> scores [B, kinds]."""

    described: str  # as in "ranked by ..."

    def __call__(self, waveform: Tensor) -> Tensor:
        """See above."""


class Judge:
    """The classifier with what it needs to hear: waveforms [B, samples] at 16 kHz -> log-probabilities."""

    described = "a classifier that heard only real recordings"

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.to_mel = MelSpectrogram(AudioConfig())  # whatever mel the model under test uses

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> [B, classes]."""
        return self.classifier(self.to_mel(waveform)).log_softmax(dim=-1)


def open_judge(data: ObjectSet, folder: Path) -> Judge:
    """The judge of `data`, trained into `folder` the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(RECIPES / "starter" / "classifier.yaml", ClassifierRecipe)
    return Judge(train_classifier(recipe, data, folder))


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes of [N, classes] are ranked above the labels [N]: [N]."""
    return (logits > logits.gather(1, labels[:, None])).sum(dim=1)


def score_ranks(ranks: Tensor) -> Score:
    """Top-1 and top-5 of ranks [N] counted from 0."""
    return Score(float((ranks < 1).float().mean()), float((ranks < 5).float().mean()), len(ranks))


def score(logits: Tensor, labels: Tensor) -> Score:
    """Top-1 and top-5 of [N, classes] against [N]."""
    return score_ranks(ranks_of(logits, labels))
