"""Trains the small separator of *Retrieve & Separate*, and writes the sounds that it retrieves from.

    python -m training starter evaluate separator --out separator.safetensors
    python -m training starter evaluate library --out LIBRARY

Mix-and-separate, as in *The Sound of Pixels*: recordings of two or three objects are added up, and the share of each
band and frame that belongs to one of them is predicted from the mixture and that object's visual feature. Features
are of scenes of the training stream, in which the object stands among others.

The library has mixtures of the training stream's scenes, each with a caption of what sounds in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.files import write_audio
from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range
from sounding.utils.files import hidden_name, remove_abandoned

from ...data.object_set import ObjectSet, any_of
from ...data.scenes import as_tensors, draw_scene, scene_caption, scene_rng, scene_sound
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from ...engine.loader import Item
from ...engine.loop import train
from ...engine.objective import Objective
from ...engine.settings import LoopConfig
from ...evaluate.baselines.retrieval import CAPTIONS
from ...evaluate.baselines.separation import Separator, SeparatorConfig, spectrum_of, to_bands, visual_features
from .sounds import asked_scene

log = logging.getLogger("training")


@dataclass(frozen=True)
class SeparatorRecipe(Checked):
    """Settings of `train_separator`; `scenes` are those per object that its visual features are of."""

    loop: LoopConfig
    seconds: Annotated[float, Range(0.5, 60)] = 2.56
    scenes: Annotated[int, Range(1, 1000)] = 5
    components: Annotated[int, Range(1, 256)] = 16
    width: Annotated[int, Range(4, 256)] = 16


def object_features(model: SoundingModel, data: ObjectSet, scenes: int) -> Tensor:
    """Visual features of every object in scenes of the training stream: [objects, scenes, L]."""
    rows = []
    for label in range(len(data)):
        for turn in range(scenes):
            rng = scene_rng("train", 10_000_000 + label * 1000 + turn)
            others = [i for i in range(len(data)) if i != label]
            count = min(int(rng.integers(0, 3)), len(others))
            labels = (label, *(int(i) for i in rng.choice(others, count, replace=False))) if count else (label,)
            image, masks = as_tensors(asked_scene(data, rng, labels))
            rows.append(visual_features(model, image, masks[:1])[0])
    return torch.stack(rows).unflatten(0, (len(data), scenes))


class _Items:
    """Mixtures of recordings, and the share of one of them."""

    def __init__(self, data: ObjectSet, features: Tensor, samples: int):
        self.data, self.features, self.samples = data, features, samples

    def __len__(self) -> int:
        return len(self.data)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        others = [i for i in range(len(self.data)) if i != index]
        count = min(int(rng.choice([0, 1, 2], p=[0.1, 0.6, 0.3])), len(others))
        labels = [index, *(int(i) for i in rng.choice(others, count, replace=False))] if count else [index]
        clips = torch.stack([_at_one_level(fill(any_of(self.data.sounds[i], rng), self.samples, rng)) for i in labels])
        clips = clips * torch.from_numpy(10 ** (rng.uniform(-6, 6, (len(labels), 1)) / 20)).float()
        clips = 0.5 * clips / clips.sum(dim=0).abs().max().clamp(min=1e-4)
        parts = to_bands(spectrum_of(clips).abs())
        visual = self.features[index, int(rng.integers(self.features.shape[1]))]
        return {
            "bands": to_bands(spectrum_of(clips.sum(dim=0, keepdim=True)).abs())[0],
            "share": parts[0] / parts.sum(dim=0).clamp(min=1e-6),
            "visual": visual,
        }


def _at_one_level(clip: Tensor) -> Tensor:
    """At the loudness that `waveforms.mix` mixes at: RMS 1 while it sounds."""
    sounding = clip[clip.abs() > 1e-4]
    return clip / sounding.square().mean().sqrt() if len(sounding) else clip


class _Objective(Objective):
    def __init__(self, separator: Separator):
        super().__init__()
        self.separator = separator

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = self.separator(batch["bands"], batch["visual"]).float()
        loud = batch["bands"].add(1).log().clamp(1e-3, 10)  # as in The Sound of Pixels: what is loud counts more
        loss = functional.binary_cross_entropy_with_logits(logits, batch["share"].clamp(0, 1), weight=loud)
        wrong = (logits.sigmoid() - batch["share"]).abs() * loud
        return {"loss": loss, "share_l1": wrong.sum() / loud.sum()}


def train_separator(recipe: SeparatorRecipe, data: ObjectSet, model: SoundingModel, folder: Path) -> Separator:
    """Train, or load what `folder` holds of an earlier run with the same recordings, features and settings."""
    torch.manual_seed(recipe.loop.seed)
    features = object_features(model, data, recipe.scenes)
    width = features.shape[-1]
    separator = Separator(SeparatorConfig(width, model.config.name, recipe.components, recipe.width))
    items = _Items(data, features, round(recipe.seconds * SAMPLE_RATE))
    train(_Objective(separator), items, recipe.loop, folder / f"separator-{_content(recipe, data, features)}")
    return separator.cpu().eval().requires_grad_(False)


def _content(recipe: SeparatorRecipe, data: ObjectSet, features: Tensor) -> str:
    """Names all that decides what is learned."""
    total = hashlib.sha256(repr(recipe).encode())
    for tensor in (features, *(sound for sounds in data.sounds for sound in sounds)):
        total.update(f"{tuple(tensor.shape)} ".encode())
        total.update(tensor.float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def write_library(data: ObjectSet, out: Path, scenes: int, seconds: float = 2.56) -> Path:
    """Write mixtures of scenes of the training stream and `captions.csv`, in one step.

    Raises:
        ValueError: `out` is there already.
    """
    if out.exists():
        raise ValueError(f"{out} is there already, but a new folder is expected; give another name, or delete it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent)
    temporary = out.parent / hidden_name()
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "caption"])
    try:
        temporary.mkdir()
        for number in range(scenes):
            rng = scene_rng("train", 20_000_000 + number)
            drawn, scene = draw_scene(data, rng)
            rows.writerow([f"{number:05}", scene_caption(drawn, scene, rng)])
            sound = scene_sound(drawn, scene, round(seconds * SAMPLE_RATE), rng)
            write_audio(temporary / f"{number:05}.wav", sound, SAMPLE_RATE)
        (temporary / CAPTIONS).write_bytes(text.getvalue().encode())
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out
