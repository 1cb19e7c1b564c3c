"""A judge that shares no recording with the generator.

The classifier of `judge.py` heard the very recordings that the generator learned. The judge here, a logistic regression
on an embedding that nobody here trained, learns from the recordings of a test set alone: so it says whether a sound is
recognised as one of its kind by somebody who never heard the recordings that it imitates. How well it names those
recordings is the most that can be expected of generated sounds, and is given beside them.

Beside it stand two figures for which no test recording is needed: `retrieval.py` says whether a sound is nearest to its
own kind's training recordings, `variety.py` how much the sounds of one selection differ. Kinds count alike in all, so
intervals are by resampling kinds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.audio.files import read_audio
from sounding.grounding import Condition
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet, read_set
from ...data.scenes import as_tensors
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from ...evaluate import intervals
from .classifier import augmented, real_crops
from .judge import ranks_of
from .retrieval import Embedding, gallery_of
from .sounds import HELD_OUT, Chosen, Settings, asked_scene, check_stream, copies, held_out_scenes, made_of
from .variety import distance, recording_distances

log = logging.getLogger("training")
Figures = dict[str, Any]
Recordings = Mapping[str, Sequence[Tensor]]  # [samples] at 16 kHz, by the kind's name
CUTS = 24  # of each kind, that the judge learns from
PLAIN = 6  # of those, as they are; the others are augmented
STRENGTH = 0.001  # scikit-learn's C
RESAMPLES = 1000


@dataclass(frozen=True)
class HonestSettings(Settings):
    """Settings of `evaluate`: `seeds` sounds of each of `per_object` scenes a kind, which are drawn from `stream`.

    Raises:
        ValueError: the random stream of training.
    """

    per_object: int = 2
    seeds: int = 2
    stream: int = HELD_OUT

    def __post_init__(self) -> None:
        check_stream(self.stream)


@dataclass(frozen=True)
class Sounds:
    """Sounds [N, samples] at 16 kHz, what an embedding makes of them [N, D], and the label of each one's kind [N]."""

    waveforms: Tensor
    embedded: Tensor
    labels: Tensor


class HonestJudge:
    """Names the kinds of embedded sounds, in the order of `recordings`, that it learns from.

    Raises:
        ValueError: fewer than two kinds.
    """

    def __init__(self, recordings: Recordings, samples: int, embedding: Embedding):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(recordings) < 2:
            raise ValueError(f"Kinds that came: {len(recordings)}, but a judge has to tell two or more apart.")
        rng = np.random.default_rng(7)
        cuts = []
        for takes in recordings.values():
            for number in range(CUTS):
                cut = fill if number < PLAIN else augmented
                cuts.append(cut(takes[number % len(takes)], samples, rng))
        self.kinds = tuple(recordings)
        self.probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        self.probe.fit(embedding(torch.stack(cuts)).numpy(), np.repeat(np.arange(len(self.kinds)), CUTS))

    def __call__(self, embedded: Tensor) -> Tensor:
        """[N, D] -> log-probabilities [N, kinds]."""
        scores = torch.from_numpy(self.probe.decision_function(embedded.double().numpy()))
        if scores.ndim == 1:  # of two kinds scikit-learn gives the log-odds of the second one
            scores = torch.stack([torch.zeros_like(scores), scores], dim=1)
        return scores.log_softmax(dim=1)  # its own probabilities underflow, and ranks would be tied


def evaluate(model: SoundingModel, train: Path, test: Path, embedding: Embedding, settings: HonestSettings) -> Figures:
    """The figures of judge, retrieval and variety as one dictionary.

    Args:
        model: what makes the sounds.
        train: folder of the set that it learned; its images are shown.
        test: folder of a set of the same kinds, whose recordings the judge learns from.
        embedding: what sounds are compared by.
        settings: how sounds are made, and how many.

    Raises:
        FileNotFoundError, ValueError: see `read_set`; also sets that have a recording or too few kinds in common.
    """
    data = ObjectSet(train)
    visible = data.visible
    heard = read_recordings(test)
    check_apart(data.all_recordings, heard, train, test)
    known = {entry.name: heard[entry.name] for entry, _ in visible if entry.name in heard}
    if len(known.keys() & {entry.name for entry in data.entries}) < 2:
        raise ValueError(
            f"{test} has recordings of fewer than two kinds that {train} has images of; make both with "
            "`python -m training starter data`."
        )
    samples = round(settings.seconds * SAMPLE_RATE)
    judge = HonestJudge(known, samples, embedding)
    gallery = gallery_of([sounds for _, sounds in visible], samples, embedding)
    log.info("the judge knows %d kinds, the gallery %d", len(known), len(visible))

    scenes = held_out_scenes(data, settings.per_object, settings.stream)
    labels = torch.tensor([chosen[0] for _, chosen in scenes]).repeat_interleave(settings.seeds)
    real = real_crops(data, labels.tolist(), samples, np.random.default_rng(99), strong=False)
    tested = torch.tensor([entry.name in known for entry in data.entries])[labels]
    through = torch.cat([copies(model, part) for part in real[tested].split(settings.batch)])
    systems = {
        "real": Sounds(real, embedding(real), labels),
        "copies": Sounds(through, embedding(through), labels[tested]),
    }
    for by, conditions in selections(model, data, scenes, settings).items():
        sounds = repeated(model, conditions, settings)
        systems[by] = Sounds(sounds, embedding(sounds), labels)
        log.info("made %d sounds by %s", len(sounds), by)

    names = [entry.name for entry in data.entries]
    found = {name: judged(judge, names, each) for name, each in systems.items()}
    figures: Figures = {
        "embedding": embedding.name,
        "judge": {"kinds": len(known), "chance": chance(len(known))} | found,
        "retrieval": {"kinds": len(visible), "chance": chance(len(visible))},
    }
    for name, each in systems.items():
        figures["retrieval"][name] = shares(gallery.ranks(each.embedded, each.labels), each.labels)
    figures["variety"] = variety(data, {by: systems[by] for by in ("mask", "text")}, settings)
    return figures


def read_recordings(folder: Path) -> Recordings:
    """The recordings of all kinds of a set, without its images.

    Raises:
        FileNotFoundError, ValueError: see `read_set`; also a recording that cannot be read.
    """
    return {
        entry.name: [read_audio(folder / file, SAMPLE_RATE) for file in entry.all_recordings]
        for entry in read_set(folder).objects
    }


def check_apart(learned: Sequence[Tensor], heard: Recordings, train: Path, test: Path) -> None:
    """Whether the judge hears nothing that the generator learned.

    Raises:
        ValueError: a recording is in both sets.
    """
    known = {sound.numpy().tobytes() for sound in learned}
    shared = [name for name, sounds in heard.items() for sound in sounds if sound.numpy().tobytes() in known]
    if shared:
        raise ValueError(
            f"{test} shares {len(shared)} of its recordings with {train}, the first one of {shared[0]!r}, but a judge "
            "must not know what was learned; give the two sets of `python -m training starter data`."
        )


@torch.inference_mode()
def selections(
    model: SoundingModel, data: ObjectSet, scenes: list[Chosen], settings: HonestSettings
) -> dict[str, list[Condition]]:
    """The conditions of each scene's first object by its mask and by its caption."""
    by_mask, by_text = [], []
    for number, labels in scenes:
        scene = asked_scene(data, np.random.default_rng([settings.stream, number]), labels)
        image, masks = as_tensors(scene)
        patches = model.see(image)
        by_mask.append(model.ground(patches, mask=masks[:1], clamp=settings.clamp))
        by_text.append(model.ground(patches, text=data.entries[labels[0]].caption))
    return {"mask": by_mask, "text": by_text}


def repeated(model: SoundingModel, conditions: list[Condition], settings: HonestSettings) -> Tensor:
    """`settings.seeds` sounds of each condition, one after the other: [N * seeds, samples] at 16 kHz."""
    turns = range(settings.seeds)
    every = [condition for condition in conditions for _ in turns]
    return made_of(
        model, every, [1000 * number + turn for number in range(len(conditions)) for turn in turns], settings
    )


def judged(judge: HonestJudge, names: Sequence[str], sounds: Sounds) -> Figures:
    """Shares of the sounds that the judge names rightly, of kinds that it knows, and those of each such kind.

    `names` are those of the labels' kinds.
    """
    places = torch.tensor([judge.kinds.index(name) if name in judge.kinds else -1 for name in names])[sounds.labels]
    known = places >= 0
    labels = sounds.labels[known]
    ranks = ranks_of(judge(sounds.embedded[known]), places[known])
    by_kind = {names[label]: float((ranks[labels == label] < 1).float().mean()) for label in labels.unique()}
    return shares(ranks, labels) | {"top1_by_kind": by_kind}


def variety(data: ObjectSet, systems: Mapping[str, Sounds], settings: HonestSettings) -> Figures:
    """How much sounds of one selection differ, as a share of how much cuts of two recordings of their kind do.

    Over kinds of two recordings or more; "one recording" are cuts of the same, and "recordings, nats" is what all
    others are shares of.
    """
    kinds = [label for label, recordings in enumerate(data.sounds) if len(recordings) > 1]
    if not kinds:
        return {}
    samples = next(iter(systems.values())).waveforms.shape[1]
    real = torch.tensor([recording_distances(data.sounds[label], samples, label) for label in kinds])
    within, between = real.unbind(dim=1)
    found = {"recordings, nats": between, "one recording": within / between}
    for name, sounds in systems.items():
        scenes = torch.arange(len(sounds.labels)) // settings.seeds
        of_kind = [sounds.labels == label for label in kinds]
        own = [distance(sounds.waveforms[chosen], scenes[chosen], same=True) for chosen in of_kind]
        found[name] = torch.tensor(own) / between
    return {name: over_kinds(values, torch.arange(len(kinds))) for name, values in found.items()}


def chance(kinds: int) -> Figures:
    """What a guess among so many kinds reaches."""
    return {"top1": 1 / kinds, "top5": min(1.0, 5 / kinds)}


def shares(ranks: Tensor, labels: Tensor) -> Figures:
    """Top-1 and top-5 of ranks [N] counted from 0, of sounds of kinds [N]."""
    found = {f"top{most}": over_kinds(ranks < most, labels) for most in (1, 5)}
    return {name: top | {"low": max(0.0, top["low"]), "high": min(1.0, top["high"])} for name, top in found.items()}


def over_kinds(values: Tensor, labels: Tensor) -> Figures:
    """The mean over kinds of the mean of each one's values [N], with a 95 % interval by resampling kinds."""
    means = np.array([float(values[labels == label].float().mean()) for label in labels.unique()])
    weights = intervals.draw_weights(len(means), RESAMPLES)
    return asdict(intervals.figure(intervals.weighted_means(means, weights), len(means)))


def table(figures: Figures) -> str:
    """The figures as lines of Markdown: shares above, variety below."""
    lines = ["| measure | sounds | top-1 | top-5 | kinds |", "| --- | --- | --- | --- | --- |"]
    for measure in ("judge", "retrieval"):
        among, rows = figures[measure]["kinds"], figures[measure]
        lines.append(f"| {measure} | chance | {rows['chance']['top1']:.2f} | {rows['chance']['top5']:.2f} | {among} |")
        for name in ("real", "copies", "mask", "text"):
            top1, top5 = rows[name]["top1"], rows[name]["top5"]
            lines.append(f"| {measure} | {name} | {_shown(top1)} | {_shown(top5)} | {top1['count']} of {among} |")
    if figures["variety"]:
        lines += ["", "| sounds | variety | kinds |", "| --- | --- | --- |"]
        lines += [f"| {name} | {_shown(found)} | {found['count']} |" for name, found in figures["variety"].items()]
    return "\n".join(lines)


def _shown(found: Figures) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
