"""Is the right sound made for the right object? A judge trained on real recordings alone answers.

    python -m training starter evaluate recognise --model starter

reports, over all objects that the data set has images of and beside chance:

(a) real: other cuts of the real recordings
(b) copies: the same through VAE and vocoder
(c) masked: generated from the object's mask in held-out scenes
(d) pairs: in held-out scenes of two objects, how often the judge ranks the masked object above the other
(e) background: generated from a mask of everything but the objects; how often that is taken for one of them
    (in scenes without anything that fills the image)
(f) lengths: (c) at other lengths, judged in windows of 2.56 s (with --lengths 2.5 --lengths 5)
(g) checks: clicks, DC, clipping, silence and level of (c), as the vocoder gives them and leveled
(h) demo: the rank (from 1) of each object of `sounding demo`, where the data set knows them
(t) text: as (c), but grounded by the object's caption

The judge ranks all kinds that can be learned by sight. The same checkpoint and settings give the same figures.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.audio.files import read_audio
from sounding.audio.loudness import level
from sounding.audio.mel import MelSpectrogram
from sounding.cli.demo import OBJECTS, write_demo
from sounding.config import AudioConfig
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from ...data.shard_format import SAMPLE_RATE
from .audio_quality import CHECKS, check_sound
from .classifier import real_crops
from .judge import Ear, ranks_of, score
from .lengths import judged, score_length
from .sounds import Settings, copies, every_label, generated, held_out_pairs, held_out_scenes

log = logging.getLogger("training")
Figures = dict[str, Any]
PARTS = ("real", "masked", "text", "pairs", "background", "lengths", "checks", "demo")


def real_figures(model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings) -> Figures:
    """(a) and (b)."""
    every = every_label(data, settings.per_object)
    rng = np.random.default_rng(99)
    real = real_crops(data, every, round(settings.seconds * SAMPLE_RATE), rng, strong=False)
    through = torch.cat([copies(model, part) for part in real.split(16)])
    kinds, to_mel = len(data.visible), MelSpectrogram(AudioConfig())
    return {
        "chance": {"top1": 1 / kinds, "top5": 5 / kinds},
        "real": vars(score(judge(real), torch.tensor(every))),
        "copies": vars(score(judge(through), torch.tensor(every))),
        "copies_log_mel_l1": float((to_mel(through) - to_mel(real)).abs().mean()),
    }


def pair_figures(model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings) -> Figures:
    """(d)."""
    pairs = held_out_pairs(data, settings.pairs)
    logits = judge(generated(model, data, pairs, settings, by="mask"))
    chosen = torch.tensor([labels for _, labels in pairs])
    wins = logits.gather(1, chosen[:, :1]) > logits.gather(1, chosen[:, 1:2])
    return {"masked_wins": float(wins.float().mean()), "count": len(pairs), "chance": 0.5}


def background_figures(model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings) -> Figures:
    """(e). Chance is that of a guess among all kinds, for as many as each scene has."""
    whole, kinds = set(data.whole), len(data.visible)
    scenes = [chosen for chosen in held_out_scenes(data, settings.per_object) if whole.isdisjoint(chosen[1])]
    guesses = judge(generated(model, data, scenes, settings, by="background")).argmax(dim=1).tolist()
    mistaken = [guess in labels for guess, (_, labels) in zip(guesses, scenes, strict=True)]
    chance = float(np.mean([len(labels) / kinds for _, labels in scenes]))
    return {"taken_for_an_object": float(np.mean(mistaken)), "chance": chance, "count": len(scenes)}


def length_figures(model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings) -> Figures:
    """(f), beside real recordings of the same lengths."""
    scenes = held_out_scenes(data, settings.per_object)
    labels = [chosen[0] for _, chosen in scenes]
    figures: Figures = {}
    for seconds in settings.lengths:
        sounds = generated(model, data, scenes, settings, by="mask", seconds=seconds)
        real = real_crops(data, labels, sounds.shape[1], np.random.default_rng(99), strong=False)
        figures[f"{seconds:g} s"] = {
            "samples": sounds.shape[1],
            "masked": score_length(judge, sounds, torch.tensor(labels)),
            "real": score_length(judge, real, torch.tensor(labels)),
        }
        log.info("lengths %g s %s", seconds, figures[f"{seconds:g} s"])
    return figures


def check_figures(sounds: Tensor) -> Figures:
    """(g): how many of [N, samples] have each finding, as they are and leveled."""
    figures: Figures = {"count": len(sounds)}
    for name, given in (("raw", sounds), ("leveled", level(sounds, SAMPLE_RATE))):
        counts = Counter(finding.check.name for sound in given for finding in check_sound(sound, SAMPLE_RATE))
        figures[name] = {check: counts[check] for check in CHECKS}
    return figures


def demo_figures(model: SoundingModel, data: ObjectSet, judge: Ear) -> Figures:
    """(h)."""
    labels = {stamp.name: stamp.label for stamp in data.entries}
    with tempfile.TemporaryDirectory() as folder:
        write_demo(model, Path(folder))
        sounds = torch.stack([read_audio(Path(folder) / f"{name}.wav", SAMPLE_RATE) for name in OBJECTS])
    ranks = ranks_of(judged(judge, sounds).mean(dim=1), torch.tensor([labels[name] for name in OBJECTS]))
    return {name: int(rank) + 1 for name, rank in zip(OBJECTS, ranks, strict=True)}


def evaluate(
    model: SoundingModel, data: ObjectSet, judge: Ear, settings: Settings, parts: tuple[str, ...] = PARTS
) -> Figures:
    """The figures of `parts` as one dictionary."""
    figures: Figures = {}

    def note(name: str, found: Figures) -> None:
        figures[name] = found
        log.info("%s %s", name, found)

    if "real" in parts:
        figures |= real_figures(model, data, judge, settings)
        log.info("%s", figures)
    scenes = held_out_scenes(data, settings.per_object)
    labels = torch.tensor([chosen[0] for _, chosen in scenes])
    if "masked" in parts or "checks" in parts:
        sounds = generated(model, data, scenes, settings, by="mask")
        logits = judge(sounds)
        note("masked", vars(score(logits, labels)))
        ranks = ranks_of(logits, labels)
        figures["masked_rank_by_object"] = {
            stamp.name: int(ranks[labels == stamp.label].float().median()) + 1 for stamp in data.entries
        }
        if "checks" in parts:
            note("checks", check_figures(sounds))
    if "text" in parts:
        note("text", vars(score(judge(generated(model, data, scenes, settings, by="text")), labels)))
    if "pairs" in parts and settings.pairs:
        note("pairs", pair_figures(model, data, judge, settings))
    if "background" in parts:
        note("background", background_figures(model, data, judge, settings))
    if "lengths" in parts and settings.lengths:
        note("lengths", length_figures(model, data, judge, settings))
    if "demo" in parts and set(OBJECTS) <= {stamp.name for stamp in data.entries}:
        note("demo", demo_figures(model, data, judge))
    return figures
