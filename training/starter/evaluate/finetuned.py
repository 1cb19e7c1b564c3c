"""Did a model learn a person's own objects, and does it still know the others? The judge of `recognise.py` answers.

    python -m training starter evaluate finetuned my.safetensors --data my-sounds

reports for each model, by a classifier that heard only real recordings, of `--stamps` and of `--data`:

new, by mask and by text: of scenes like those that were learnt from, from another random stream
new, other images: of `--test`, images named as the objects are that no training saw
old: of `--stamps`, as `recognise.py` has it
pairs: scenes of a new and an old object; how often the judge ranks the masked one above the other
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sounding.model import SoundingModel, load
from sounding.utils.files import write_atomic

from ...data.object_set import ObjectSet
from ...finetune.objects import Picture, TaughtObject, read_objects, read_pictures
from ...finetune.retrieval import sound_of
from ...finetune.scenes import Cast
from .judge import Judge, open_judge, score
from .sounds import By, Chosen, Settings, generated

log = logging.getLogger("training")
Scenes = list[Chosen]


@dataclass(frozen=True)
class FinetunedSettings:
    """How sounds are made, and how many; None is the checkpoint's own."""

    per_new: int = 5  # sounds per new object
    per_old: int = 2
    pairs: int = 48
    seconds: float = 2.56
    steps: int | None = 15
    cfg: float | None = None
    sampler: str | None = None
    batch: int = 16


def scenes_of(objects: Sequence[int], among: int, each: int, stream: int) -> Scenes:
    """`each` held-out scenes of every object, alone or with up to three others, as `recognise.py` draws them."""
    scenes: Scenes = []
    for number in (number for number in objects for _ in range(each)):
        rng = np.random.default_rng([stream, len(scenes)])
        count = int(rng.choice([0, 1, 2, 3], p=[0.3, 0.35, 0.2, 0.15]))
        others = rng.choice([i for i in range(among) if i != number], min(count, among - 1), replace=False)
        scenes.append((1000 * stream + len(scenes), (number, *(int(i) for i in others))))
    return scenes


def taught(known: ObjectSet, new: Sequence[TaughtObject]) -> ObjectSet:
    """A set of objects with `new` ones after those that it has images of."""
    added, both = Cast(new), copy.copy(known)
    both.entries = [*known.entries, *(replace(entry, label=len(known) + entry.label) for entry in added.entries)]
    both.images = [*known.images, *([picture.cutout for picture in thing.pictures] for thing in new)]
    both.sounds = [*known.sounds, *(list(thing.recordings) for thing in new)]
    both.cutouts, both.recordings = known.cutouts + added.cutouts, known.recordings + added.recordings
    return both


def shown_as(data: ObjectSet, number: int, picture: Picture) -> ObjectSet:
    """The same objects, but object `number` looks like `picture`."""
    shown = copy.copy(data)
    shown.images = [[picture.cutout] if other == number else images for other, images in enumerate(data.images)]
    return shown


@torch.inference_mode()
def whole(model: SoundingModel, picture: Picture, seeds: list[int], settings: FinetunedSettings) -> Tensor:
    """Sounds [seeds, samples] of a photograph by its own outline or, without one, by all of it."""
    image = torch.from_numpy(np.asarray(picture.image.convert("RGB")) / np.float32(255))[None]
    mask = torch.from_numpy(np.asarray(picture.image.getchannel("A")) / np.float32(255))[None]
    condition = model.ground(model.see(image), mask=mask, image_size=(image.shape[1], image.shape[2]))
    noise = model.noise(settings.seconds, seeds)
    latents = model.sample(condition, noise, steps=settings.steps, cfg=settings.cfg, sampler=settings.sampler)
    return sound_of(model, latents, settings.seconds)


def evaluate(
    model: SoundingModel,
    judge: Judge,
    data: ObjectSet,
    old: int,
    test: dict[str, list[Picture]],
    settings: FinetunedSettings,
) -> dict[str, object]:
    """All figures of one model; the first `old` objects of `data` are those that it knew, the others are new."""
    count = len(data)
    fresh = range(old, count)
    figures: dict[str, object] = {}
    how = Settings(settings.seconds, settings.steps, settings.cfg, settings.sampler, batch=settings.batch)

    def report(name: str, sounds: Tensor, labels: Sequence[int]) -> None:
        figures[name] = vars(score(judge(sounds), torch.tensor(list(labels))))
        log.info("%s %s", name, figures[name])

    choices: tuple[By, ...] = ("mask", "text")
    for by in choices:
        drawn = scenes_of(fresh, count, settings.per_new, 61)
        report(f"new by {by}", generated(model, data, drawn, how, by=by), [labels[0] for _, labels in drawn])
    shown = [(number, picture) for number in fresh for picture in test.get(data.entries[number].name, [])]
    if shown:
        parts = []
        for number, picture in shown:
            if picture.cut:  # on backgrounds, as an outline without one asks for
                scenes: Scenes = [(62_000 + number * 10 + i, (number,)) for i in range(settings.per_new)]
                parts.append(generated(model, shown_as(data, number, picture), scenes, how, by="mask"))
            else:
                parts.append(whole(model, picture, list(range(settings.per_new)), settings))
        labels = [number for number, _ in shown for _ in range(settings.per_new)]
        report("new, other images", torch.cat(parts), labels)
    scenes = scenes_of(range(old), old, settings.per_old, 63)
    report("old by mask", generated(model, data, scenes, how, by="mask"), [labels[0] for _, labels in scenes])
    pairs: Scenes = []
    for n in range(settings.pairs):
        rng = np.random.default_rng([64, n])
        pair = (int(rng.choice(fresh)), int(rng.integers(old)))
        pairs.append((64_000 + n, pair if n % 2 else pair[::-1]))
    logits = judge(generated(model, data, pairs, how, by="mask"))
    chosen = torch.tensor([labels for _, labels in pairs])
    wins = (logits.gather(1, chosen[:, :1]) > logits.gather(1, chosen[:, 1:2])).float()[:, 0]
    masked_new = torch.arange(len(pairs)) % 2 == 1
    figures["pairs"] = {"new_wins": float(wins[masked_new].mean()), "old_wins": float(wins[~masked_new].mean()),
                        "count": len(pairs), "chance": 0.5}  # fmt: skip
    return figures


def compare(
    models: Sequence[str],
    data: Path,
    stamps: Path,
    folder: Path,
    settings: FinetunedSettings,
    *,
    test: Path | None = None,
    out: Path | None = None,
) -> dict[str, object]:
    """The figures of every model.

    Args:
        models: "starter" or checkpoints.
        data: the folder of objects that was learnt.
        stamps: folder of the objects that were known before.
        folder: where the judge is kept.
        settings: see there.
        test: images of the new objects that no training saw.
        out: gets the figures as JSON, after each model.
    """
    known, (new, _) = ObjectSet(stamps), read_objects(data)
    both = taught(known, new)
    judge = open_judge(both, folder)
    shown = read_pictures(test) if test else {}
    figures: dict[str, object] = {"objects": {"new": len(new), "old": len(known)}}
    for name in models:
        log.info("%s", name)
        figures[name] = evaluate(load(name), judge, both, len(known), shown, settings)
        if out:
            write_atomic(out, json.dumps(figures, indent=1).encode())
    return figures
