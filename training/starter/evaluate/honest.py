"""A judge that shares no recording with the generator.

The classifier of `judge.py` heard the very recordings that the starter learned. Judges here learn from second
recordings alone (`training.starter.second_recordings`): so they say whether a sound is recognised as one of its kind by
somebody who never heard the recording that it imitates. There are two:

- `open_second_judge`: the same small classifier, trained from scratch on few recordings
- `open_probe`: a logistic regression on a published embedding, which nobody here trained

How well they do on the starter's own recordings, which they never heard either, is the most that can be expected of
generated sounds, and is given beside every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.audio.files import read_audio
from sounding.audio.resampling import fit_length

from ...data.object_set import ObjectSet
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from ...evaluate import intervals
from ...evaluate.features import FeatureModel
from ...evaluate.items import Item
from ...recipe import RECIPES, read_recipe
from ..second_recordings import SecondRecordings
from .classifier import SecondRecipe, augmented, train_on
from .judge import Judge, ranks_of
from .retrieval import Embedding, PublishedEmbedding, gallery_of

Figures = dict[str, Any]
Hearing = Callable[[Tensor], Tensor]  # [B, samples] at 16 kHz -> log-probabilities [B, classes]
SECONDS = 2.56  # of the cuts that a probe learns from
CUTS = 24  # of each kind, a quarter of them as they are
STRENGTH = 0.001  # scikit-learn's C; of 0.001, 0.01 and 0.1 the best on the starter's own recordings


@dataclass(frozen=True)
class Sounds:
    """Sounds of a system for items: [N, samples] at 16 kHz, and the label of the selected object of each."""

    name: str
    waveforms: Tensor
    labels: Tensor


def read_sounds(name: str, folder: Path, items: Sequence[Item], data: ObjectSet, seconds: float) -> Sounds:
    """The sounds `folder`/NAME.wav of all items with a selected object, brought to `seconds`.

    Raises:
        ValueError: a sound is missing or cannot be read, or an object is not in the data set.
    """
    known = {entry.name: entry.label for entry in data.entries}
    waveforms, labels = [], []
    for item in items:
        for thing in item.entry.selected:
            if thing.name not in known:
                raise ValueError(
                    f"{item.name} shows {thing.name!r}, which {len(known)} objects of the data do not have."
                )
            sound = read_audio(folder / f"{item.name}.wav", SAMPLE_RATE)
            waveforms.append(fit_length(sound, round(seconds * SAMPLE_RATE)))
            labels.append(known[thing.name])
    if not labels:
        raise ValueError(f"{folder} has no sound of a selected object, but figures are of those.")
    return Sounds(name, torch.stack(waveforms), torch.tensor(labels))


def open_second_judge(second: SecondRecordings, folder: Path) -> Judge:
    """The small classifier of kinds, trained on second recordings into `folder` the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(RECIPES / "starter" / "second_classifier.yaml", SecondRecipe)
    return Judge(train_on(recipe, {kind.name: second.of(kind.name) for kind in second.kinds}, folder))


def open_probe(second: SecondRecordings, model: FeatureModel, cuts: int = CUTS, seed: int = 7) -> Hearing:
    """A logistic regression over kinds on the embedding of a published model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    embedding, samples = PublishedEmbedding(model), round(SECONDS * SAMPLE_RATE)
    rng = np.random.default_rng(seed)
    clips = []
    for kind in second.kinds:
        sources = list(second.of(kind.name).values())
        for number in range(cuts):
            takes = sources[number % len(sources)]
            take = takes[int(rng.integers(len(takes)))]
            clips.append(augmented(take, samples, rng) if number % 4 else fill(take, samples, rng))
    labels = np.repeat(np.arange(len(second.kinds)), cuts)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    probe.fit(embedding(torch.stack(clips)).numpy(), labels)
    return lambda waveform: torch.from_numpy(probe.predict_log_proba(embedding(waveform).numpy()))


def kind_figures(hearing: Hearing, second: SecondRecordings, data: ObjectSet, sounds: Sounds) -> Figures:
    """Shares of the sounds, of objects that have a kind, that are recognised as that kind or family, and by kind."""
    of_object = {name: place for place, kind in enumerate(second.kinds) for name in kind.objects}
    names = [data.entries[label].name for label in sounds.labels.tolist()]
    kept = [place for place, name in enumerate(names) if name in of_object]
    if not kept:
        raise ValueError(f"None of the objects of {sounds.name} has a second recording.")
    kinds = torch.tensor([of_object[names[place]] for place in kept])
    log_probabilities = hearing(sounds.waveforms[kept])
    ranks = ranks_of(log_probabilities, kinds)
    families = [kind.family for kind in second.kinds]
    guesses = log_probabilities.argmax(dim=1).tolist()
    in_family = [families[guess] == families[kind] for guess, kind in zip(guesses, kinds.tolist(), strict=True)]
    chance = float(np.mean([families.count(families[kind]) / len(families) for kind in kinds.tolist()]))
    return {
        "top1": share(ranks < 1),
        "top5": share(ranks < 5),
        "family": share(torch.tensor(in_family)),
        "chance": {"top1": 1 / len(families), "top5": min(1.0, 5 / len(families)), "family": chance},
        "by_kind": {
            kind.name: f"{int((ranks[kinds == place] < 1).sum())} of {int((kinds == place).sum())}"
            for place, kind in enumerate(second.kinds)
            if bool((kinds == place).any())
        },
    }


def object_figures(classifier: FeatureModel, sounds: Sounds) -> Figures:
    """Shares that a classifier of all objects names rightly."""
    return _of_ranks(ranks_of(classifier.logits(classifier.embed(sounds.waveforms, SAMPLE_RATE)), sounds.labels))


def retrieval_figures(embedding: Embedding, data: ObjectSet, systems: Sequence[Sounds]) -> Figures:
    """Of each system's sounds: the place of the right recording among all of the data set, by nearness."""
    samples = systems[0].waveforms.shape[1]
    gallery = gallery_of(data.recordings, samples, embedding)
    figures: Figures = {"embedding": embedding.name, "recordings": len(data)}
    for sounds in systems:
        ranks = gallery.ranks(embedding(sounds.waveforms), sounds.labels)
        figures[sounds.name] = _of_ranks(ranks) | {"median_rank": float(ranks.float().median()) + 1}
    return figures


def share(hits: Tensor) -> Figures:
    """The share of hits [N] with its 95 % interval by Wilson."""
    return asdict(intervals.share(int(hits.sum()), len(hits)))


def _of_ranks(ranks: Tensor) -> Figures:
    return {"top1": share(ranks < 1), "top5": share(ranks < 5)}


def table(figures: Figures) -> str:
    """The figures as lines of a Markdown table, one per system and judge."""
    lines = ["| judge | sounds | top-1 | top-5 | other |", "| --- | --- | --- | --- | --- |"]
    for judge, systems in figures.items():
        for name, found in systems.items():
            if not isinstance(found, dict) or "top1" not in found:
                continue
            other = f"family {_shown(found['family'])}" if "family" in found else ""
            other = f"median rank {found['median_rank']:g}" if "median_rank" in found else other
            lines.append(f"| {judge} | {name} | {_shown(found['top1'])} | {_shown(found['top5'])} | {other} |")
    return "\n".join(lines)


def _shown(found: Figures) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}, n = {found['count']})"
