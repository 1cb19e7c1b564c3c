"""Is the right sound made for the right object? A judge trained on real recordings alone answers.

    python -m training.evaluate.recognise --model starter

reports, over all objects of the data set and beside chance:

(a) real: other cuts of the real recordings
(b) copies: the same through VAE and vocoder
(c) masked: generated from the object's mask in held-out scenes
(d) pairs: in held-out scenes of two objects, how often the judge ranks the masked object above the other
(t) text: as (c), but grounded by the object's caption
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sounding.audio import MelSpectrogram, resample
from sounding.config import AudioConfig
from sounding.files import write_atomic
from sounding.grounding import Condition
from sounding.model import SoundingModel, load

from ..data.scenes import as_tensors, make_scene, scene_rng
from ..data.stamps import SAMPLE_RATE, Stamps
from ..recipe import RECIPES, read_recipe
from .classifier import Classifier, ClassifierRecipe, real_crops, train_classifier

log = logging.getLogger("training")


@dataclass(frozen=True)
class Score:
    """Share of sounds whose object is the judge's first guess, or among its first five."""

    top1: float
    top5: float
    count: int


class Judge:
    """The classifier with what it needs to hear: waveforms [B, samples] at 16 kHz -> log-probabilities."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.to_mel = MelSpectrogram(AudioConfig())  # whatever mel the model under test uses

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> [B, classes]."""
        return self.classifier(self.to_mel(waveform)).log_softmax(dim=-1)


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes of [N, classes] are ranked above the labels [N]: [N]."""
    return (logits > logits.gather(1, labels[:, None])).sum(dim=1)


def score(logits: Tensor, labels: Tensor) -> Score:
    """Top-1 and top-5 of [N, classes] against [N]."""
    ranks = ranks_of(logits, labels)
    return Score(float((ranks < 1).float().mean()), float((ranks < 5).float().mean()), len(labels))


@torch.inference_mode()
def copies(model: SoundingModel, waveform: Tensor) -> Tensor:
    """[B, samples] through VAE and vocoder -> [B, samples]."""
    return model.vocode(model.decode(model.encode(waveform)), waveform.shape[-1] / SAMPLE_RATE)[:, 0]


def generated(
    model: SoundingModel,
    data: Stamps,
    scenes: list[tuple[int, tuple[int, ...]]],
    settings: argparse.Namespace,
    *,
    by: str,
) -> tuple[Tensor, list[tuple[int, ...]]]:
    """One sound for the first object of each scene (index, labels): [N, samples] and the scenes' labels."""
    sounds, labels = [], []
    for first in range(0, len(scenes), settings.batch):
        conditions = []
        for index, wanted in scenes[first : first + settings.batch]:
            scene = make_scene(data, scene_rng("held-out", index), labels=wanted)
            image, masks = as_tensors(scene)
            patches = model.see(image)
            if by == "mask":
                conditions.append(model.ground(patches, mask=masks[:1]))
            else:
                conditions.append(model.ground(patches, text=data.stamps[scene.labels[0]].caption))
            labels.append(scene.labels)
        together = Condition(
            torch.cat([condition.tokens for condition in conditions]),
            torch.cat([condition.weights for condition in conditions]),
        )
        noise = model.noise(settings.seconds, [index for index, _ in scenes[first : first + settings.batch]])
        latents = model.sample(together, noise, steps=settings.steps, cfg=settings.cfg, scheduler=settings.scheduler)
        waveform = model.vocode(model.decode(latents), settings.seconds)[:, 0]
        sounds.append(resample(waveform, model.config.audio.sample_rate, SAMPLE_RATE))
    return torch.cat(sounds), labels


def evaluate(model: SoundingModel, data: Stamps, judge: Judge, settings: argparse.Namespace) -> dict[str, object]:
    """All figures as one dictionary."""
    every = [label for label in range(len(data)) for _ in range(settings.per_object)]
    rng = np.random.default_rng(99)
    real = real_crops(data, every, round(settings.seconds * SAMPLE_RATE), rng, strong=False)
    labels = torch.tensor(every)
    through = torch.cat([copies(model, part) for part in real.split(16)])
    to_mel = judge.to_mel
    figures: dict[str, object] = {
        "chance": {"top1": 1 / len(data), "top5": 5 / len(data)},
        "real": vars(score(judge(real), labels)),
        "copies": vars(score(judge(through), labels)),
        "copies_log_mel_l1": float((to_mel(through) - to_mel(real)).abs().mean()),
    }
    log.info("%s", figures)
    # Held-out scenes of one to four objects: the objects' numbers are drawn by the scene's own generator.
    scenes: list[tuple[int, tuple[int, ...]]] = []
    for n, label in enumerate(every):
        rng = np.random.default_rng([98, n])
        count = int(rng.choice([0, 1, 2, 3], p=[0.3, 0.35, 0.2, 0.15]))
        others = rng.choice([i for i in range(len(data)) if i != label], min(count, len(data) - 1), replace=False)
        scenes.append((n, (label, *(int(i) for i in others))))
    for by, name in (("mask", "masked"), ("text", "text")):
        logits = judge(generated(model, data, scenes, settings, by=by)[0])
        figures[name] = vars(score(logits, labels))
        log.info("%s %s", name, figures[name])
        if by == "mask":
            ranks = ranks_of(logits, labels)
            figures["masked_rank_by_object"] = {
                stamp.name: int(ranks[labels == stamp.label].float().median()) + 1 for stamp in data.stamps
            }
    pairs: list[tuple[int, tuple[int, ...]]] = []
    for n in range(settings.pairs):
        rng = np.random.default_rng([97, n])
        pairs.append((100_000 + n, tuple(int(i) for i in rng.choice(len(data), 2, replace=False))))
    sounds, drawn = generated(model, data, pairs, settings, by="mask")
    logits, chosen = judge(sounds), torch.tensor(drawn)
    wins = logits.gather(1, chosen[:, :1]) > logits.gather(1, chosen[:, 1:2])
    figures["pairs"] = {"masked_wins": float(wins.float().mean()), "count": len(pairs), "chance": 0.5}
    return figures


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="'starter' or a checkpoint")
    parser.add_argument("--data", type=Path, default=Path("data/stamps"))
    parser.add_argument("--folder", type=Path, default=Path("runs/evaluate"), help="where the judge is kept")
    parser.add_argument("--per-object", type=int, default=3, help="sounds an object")
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=2.56)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--scheduler", default="dpm++")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    settings = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    data = Stamps(settings.data)
    settings.folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(RECIPES / "starter" / "classifier.yaml", ClassifierRecipe)
    judge = Judge(train_classifier(recipe, data, settings.folder))
    figures = evaluate(load(settings.model), data, judge, settings)
    text = json.dumps(figures, indent=1)
    if settings.out:
        write_atomic(settings.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
