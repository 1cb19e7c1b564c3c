"""Photographs that come from elsewhere: does the right object sound, and if not, which part fails?

    python -m training starter evaluate photographs --model starter

The photographs of `tests/photographs` take part in no training, but the starter's development looked at their figures
again and again, so of the starter they are development figures. For each of them the model generates from the object's
mask (with `--by text` from its caption, with `--by whole` from the whole image) and a classifier that heard only real
recordings ranks all objects. Beside it stands what the encoders alone make of the photograph: which object's caption is
nearest to the masked patches. `--encoders-only` asks the encoders alone, in seconds.

A photograph's `labels` are all objects that count as right: several where the data set has several of a kind. Names of
stamps count for their kinds, where the data set has those.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.grounding import Condition
from sounding.images.decoding import open_image, open_mask
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from ...finetune.retrieval import sound_of
from ..kinds import read_kinds
from .judge import Ear, ranks_of

log = logging.getLogger("training")

PHOTOGRAPHS = Path(__file__).parents[3] / "tests/photographs"
Way = Literal["mask", "text", "whole"]
WAYS: tuple[Way, ...] = ("mask", "text", "whole")
THUMBNAIL, LINE = 220, 13  # pixels of the contact sheet


@dataclass(frozen=True)
class Photograph:
    """One object in one photograph. `labels` are the data set's numbers that count as right."""

    name: str
    labels: tuple[int, ...]
    image: Tensor  # [1, H, W, 3], 0..1
    mask: Tensor  # [1, H, W], 0 or 1
    click: tuple[int, int]  # x, y inside the object


@dataclass(frozen=True)
class PhotographSettings:
    """How sounds are made, by what selects the object, and how many per photograph; None is the checkpoint's own."""

    by: tuple[Way, ...] = ("mask", "text")
    seeds: int = 3
    seconds: float = 2.56
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    batch: int = 16


def read_photographs(folder: Path, names: list[str]) -> list[Photograph]:
    """The photographs that `folder/index.json` lists; `names` are the data set's objects in the order of their labels.

    A label that is no object, but a stamp of one of `kinds.json`, counts for that one.

    Raises:
        FileNotFoundError: no index, or a file that it names is missing.
        ValueError: a label that is no object, or a mask that does not fit its photograph or is empty.
    """
    numbers = {name: number for number, name in enumerate(names)}
    known = {stamp: numbers[kind.name] for kind in read_kinds() if kind.name in numbers for stamp in kind.stamp}
    known |= numbers
    found = []
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        unknown = [label for label in entry["labels"] if label not in known]
        if unknown:
            raise ValueError(f"{entry['file']} counts for {unknown[0]!r}, but the data set has no such object.")
        image = np.asarray(open_image(folder / entry["file"]).convert("RGB")) / np.float32(255)
        mask = np.asarray(open_mask(folder / entry["mask"])) / np.float32(255)
        if mask.shape != image.shape[:2] or not mask.any():
            width, height = image.shape[1::-1]
            raise ValueError(f"{entry['mask']} is {mask.shape[::-1]}, but {width} x {height}, not empty, is expected.")
        found.append(
            Photograph(
                name=Path(entry["file"]).stem,
                labels=tuple(dict.fromkeys(known[label] for label in entry["labels"])),
                image=torch.from_numpy(image)[None],
                mask=torch.from_numpy(mask)[None],
                click=(entry["click"][0], entry["click"][1]),
            )
        )
    return found


def best_ranks(scores: Tensor, photographs: list[Photograph]) -> Tensor:
    """How many objects of [N * k, classes] (k rows a photograph) are ranked above the best right one: [N * k]."""
    rows = len(scores) // len(photographs)
    ranks = []
    for number, photograph in enumerate(photographs):
        part = scores[number * rows : (number + 1) * rows]
        each = [ranks_of(part, torch.full((rows,), label)) for label in photograph.labels]
        ranks.append(torch.stack(each).amin(dim=0))
    return torch.cat(ranks)


def chance(photographs: list[Photograph], classes: int, first: int) -> float:
    """Share of photographs with a right object among `first` different guesses at random."""
    missed = [comb(classes - len(one.labels), first) / comb(classes, first) for one in photographs]
    return 1 - sum(missed) / len(missed)


@torch.inference_mode()
def name_patches(model: SoundingModel, photographs: list[Photograph], captions: list[str]) -> Tensor:
    """Cosine of each photograph's masked patches with each caption: [N, classes]. No sound is made.

    Raises:
        ValueError: the model is asked by sound, so captions mean nothing to it.
    """
    if isinstance(model.query, ClapAudioQuery):
        raise ValueError("This checkpoint is asked by sound, but captions name the patches; take one asked by text.")
    asked = functional.normalize(model.query.encode(captions).float(), dim=-1)
    pooled = []
    for photograph in photographs:
        patches = model.see(photograph.image).float()[0]  # [P, L]
        size = (photograph.image.shape[1], photograph.image.shape[2])
        cover = mask_to_grid(photograph.mask, size, model.config.patches)[0].to(patches)
        pooled.append((patches * cover[:, None]).sum(dim=0) / cover.sum())
    return (functional.normalize(torch.stack(pooled), dim=-1) @ asked.T).cpu()


@torch.inference_mode()
def make_sounds(
    model: SoundingModel, photographs: list[Photograph], captions: list[str], settings: PhotographSettings, *, by: str
) -> Tensor:
    """`settings.seeds` sounds a photograph, one after the other: [N * seeds, samples] at 16 kHz."""
    conditions, seeds = [], []
    for number, photograph in enumerate(photographs):
        patches = model.see(photograph.image)
        size = (photograph.image.shape[1], photograph.image.shape[2])
        if by == "text":
            condition = model.ground(patches, text=captions[photograph.labels[0]])
        else:
            mask = photograph.mask if by == "mask" else torch.ones_like(photograph.mask)
            condition = model.ground(patches, mask=mask, image_size=size)
        conditions += [condition] * settings.seeds
        seeds += [1000 * number + seed for seed in range(settings.seeds)]
    sounds = []
    for first in range(0, len(seeds), settings.batch):
        part = conditions[first : first + settings.batch]
        together = Condition.cat(part)
        latents = model.sample(
            together,
            model.noise(settings.seconds, seeds[first : first + settings.batch]),
            steps=settings.steps,
            cfg=settings.cfg,
            sampler=settings.sampler,
        )
        sounds.append(sound_of(model, latents, settings.seconds))
    return torch.cat(sounds)


def marks(scores: Tensor, photographs: list[Photograph], names: list[str]) -> dict[str, Any]:
    """Top-1 and top-5 shares of [N * k, classes]; ranks (from 1) and first five guesses of each photograph.

    The guesses are those of the mean over a photograph's rows.
    """
    ranks = best_ranks(scores, photographs)
    each = ranks.view(len(photographs), -1)
    means = scores.view(len(photographs), -1, scores.shape[1]).mean(dim=1)
    return {
        "top1": float((ranks < 1).float().mean()),
        "top5": float((ranks < 5).float().mean()),
        "count": len(ranks),
        "photographs": {
            photograph.name: {
                "ranks": (each[number] + 1).tolist(),
                "guesses": [names[label] for label in means[number].argsort(descending=True)[:5]],
            }
            for number, photograph in enumerate(photographs)
        },
    }


def evaluate(
    model: SoundingModel,
    data: ObjectSet,
    photographs: list[Photograph],
    judge: Ear | None,
    settings: PhotographSettings,
) -> dict[str, Any]:
    """All figures as one dictionary: chance, the encoders' own answer, and the judge's for each of `settings.by`."""
    names, captions = [kind.name for kind, _ in data.visible], [kind.caption for kind, _ in data.visible]
    figures: dict[str, Any] = {
        "chance": {f"top{first}": chance(photographs, len(names), min(first, len(names))) for first in (1, 5)},
        "encoders": marks(name_patches(model, photographs, captions), photographs, names),
    }
    for by in settings.by:
        assert judge is not None
        sounds = make_sounds(model, photographs, captions, settings, by=by)
        figures[by] = marks(judge(sounds), photographs, names)
        log.info("%s: top-1 %.2f, top-5 %.2f", by, figures[by]["top1"], figures[by]["top5"])
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures for reading: shares above, each photograph's ranks below."""
    ways = [name for name in ("encoders", *WAYS) if name in figures]
    lines = ["| | " + " | ".join(["chance", *ways]) + " |", "| --- |" + " --- |" * (len(ways) + 1)]
    for share in ("top1", "top5"):
        lines.append(f"| {share} | " + " | ".join(f"{figures[one][share]:.2f}" for one in ("chance", *ways)) + " |")
    for name in figures["encoders"]["photographs"]:
        found = [figures[way]["photographs"][name] for way in ways]
        cells = [f"{', '.join(map(str, one['ranks']))} ({one['guesses'][0]})" for one in found]
        lines.append(f"| {name} | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_sheet(photographs: list[Photograph], figures: dict[str, Any], columns: int = 5) -> Image.Image:
    """Each photograph with all but its object darkened, and below it the first five guesses, the right ones starred."""
    ways = [name for name in ("encoders", *WAYS) if name in figures]
    height = THUMBNAIL + LINE * (2 + 3 * len(ways))
    sheet = Image.new("RGB", (columns * THUMBNAIL, -(-len(photographs) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, photograph in enumerate(photographs):
        x, y = number % columns * THUMBNAIL, number // columns * height
        lit = photograph.image[0] * (0.3 + 0.7 * photograph.mask[0][..., None])
        picture = Image.fromarray((lit * 255).round().byte().numpy())
        picture.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
        sheet.paste(picture, (x, y + LINE))
        pen.text((x, y), photograph.name, fill="black")
        below = y + THUMBNAIL + LINE
        for way in ways:
            found = figures[way]["photographs"][photograph.name]
            right = min(found["ranks"]) <= 5
            pen.text((x, below), f"{way}: rank {found['ranks']}", fill="darkgreen" if right else "darkred")
            for line, guesses in enumerate((found["guesses"][:3], found["guesses"][3:])):
                pen.text((x + 6, below + (line + 1) * LINE), ", ".join(guesses), fill="black")
            below += 3 * LINE
    return sheet
