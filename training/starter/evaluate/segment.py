"""How well do clicks find objects? Overlap (IoU) with the true mask after one and after two clicks.

    python -m training starter evaluate segment --cutouts data/cutouts --photographs tests/photographs

on held-out scenes of what is cut out in the data set before photographs, on scenes of objects and backgrounds that no
training saw, and on real photographs with masks. The first click lies deepest inside the object, the second deepest
inside the largest error, as is usual in interactive segmentation; `--clicks random` draws both, weighted to the inside,
instead. On photographs the first click is where a person put it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sounding.images.decoding import open_image, open_mask
from sounding.segment import Prompt, Segmenter, load_segmenter

from ...data.object_set import ObjectSet
from ...data.scenes import HasCutouts, background_photographs, make_scene, part_of, scene_rng
from ...tasks.clicks import Click, first_click, next_click
from ..cutouts import cutouts_of, read_cutouts
from .grabcut import GrabCutSegmenter

log = logging.getLogger("training")
AIMS = {1: 0.75, 2: 0.85}  # overlap after so many clicks, for 80 % of objects; photographs: 0.7 for two thirds
PHOTOGRAPH_AIM = 0.7
SIZES = ((320, 320), (480, 360), (360, 480), (640, 480))
LEAST_AREA = 0.003
FIRST_INDEX = 500_000  # scenes of this evaluation alone


@dataclass(frozen=True)
class Case:
    """One object in one image."""

    name: str
    picture: Tensor  # [1, H, W, 3] 0..1
    mask: np.ndarray  # [H, W] bool
    click: Click | None = None  # where a person clicked first


def scene_cases(data: HasCutouts, photographs: list[Image.Image], count: int) -> Iterator[Case]:
    """`count` objects of held-out scenes before photographs, one a scene."""
    found, index = 0, FIRST_INDEX
    while found < count:
        rng = scene_rng("held-out", index)
        size = SIZES[index % len(SIZES)]
        scene = make_scene(data, rng, size=size, backdrop=lambda rng, size: part_of(photographs, rng, size))
        seen = [mask > 127 for mask in scene.masks if (mask > 127).mean() >= LEAST_AREA]
        if seen:
            picture = torch.from_numpy(scene.image / np.float32(255))[None]
            yield Case(f"scene {index}", picture, seen[int(rng.integers(len(seen)))])
            found += 1
        index += 1


def listed_photographs(folder: Path) -> Iterator[tuple[dict[str, Any], Tensor, np.ndarray]]:
    """What a folder's `index.json` lists: the row, its photograph [1, H, W, 3] 0..1 and its mask [H, W] uint8.

    Raises:
        FileNotFoundError: it has no such list.
    """
    index = folder / "index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing; name a folder of photographs with their masks.")
    for row in json.loads(index.read_text(encoding="utf-8")):
        image = open_image(folder / row["file"]).convert("RGB")
        white = open_mask(folder / row["mask"]).resize(image.size, Image.Resampling.BILINEAR)
        yield row, torch.from_numpy(np.asarray(image) / np.float32(255))[None], np.asarray(white)


def photograph_cases(folder: Path) -> Iterator[Case]:
    """Photographs with hand-checked masks and clicks, as its `index.json` lists them (file, mask, click [x, y]).

    Raises:
        FileNotFoundError: it has no such list.
    """
    for row, picture, white in listed_photographs(folder):
        click = Click(row["click"][0] + 0.5, row["click"][1] + 0.5, True) if "click" in row else None
        yield Case(Path(row["mask"]).stem, picture, white > 127, click)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks [H, W]."""
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def overlaps(segmenter: Segmenter, case: Case, clicks: int, *, random: bool = False) -> list[float]:
    """Overlap after each of so many clicks on one object."""
    rng = np.random.default_rng(0) if random else None
    prepared = segmenter.prepare(case.picture)
    given: list[Click] = [case.click or first_click(case.mask, rng)]
    reached: list[float] = []
    while True:
        points = {sign: tuple((c.x, c.y) for c in given if c.positive == sign) for sign in (True, False)}
        answer = segmenter.segment(prepared, Prompt(positive=points[True], negative=points[False])).logits.numpy() > 0
        reached.append(overlap(answer, case.mask))
        if len(reached) == clicks:
            return reached
        given.append(next_click(case.mask, answer, rng))


def measure(segmenter: Segmenter, cases: Iterable[Case], *, random: bool = False) -> dict[str, object]:
    """Means, medians and the shares of the aims."""
    start, reached, names = time.perf_counter(), [], []
    for case in cases:
        reached.append(overlaps(segmenter, case, max(AIMS), random=random))
        names.append(case.name)
    table = np.array(reached)  # [objects, clicks]
    figures: dict[str, object] = {"objects": len(table)}
    for count, aim in AIMS.items():
        column = table[:, count - 1]
        figures[f"{count} clicks"] = {
            "mean": round(float(column.mean()), 3),
            "median": round(float(np.median(column)), 3),
            f"share >= {aim}": round(float((column >= aim).mean()), 3),
            f"share >= {PHOTOGRAPH_AIM}": round(float((column >= PHOTOGRAPH_AIM).mean()), 3),
        }
    figures["seconds an object"] = round((time.perf_counter() - start) / len(table), 3)
    if len(table) <= 64:
        figures["each"] = {name: [round(value, 3) for value in row] for name, row in zip(names, reached, strict=True)}
    return figures


def evaluate(
    segmenter: str,
    data: Path,
    *,
    cutouts: Path | None = None,
    photographs: Path | None = None,
    objects: int = 200,
    random: bool = False,
    grabcut: bool = False,
) -> dict[str, object]:
    """Figures of `measure` for each segmenter and each set of cases.

    Args:
        segmenter: "starter", a checkpoint, or a SAM file or folder.
        data: folder of a set of objects, for held-out scenes.
        cutouts: of `python -m training starter cutouts`; also measures on objects that no training saw.
        photographs: a folder with an index.json of photographs, masks and clicks.
        objects: of scenes.
        random: draws the clicks instead of placing them deepest inside.
        grabcut: also measures GrabCut, alone and after the segmenter.
    """
    first = load_segmenter(segmenter)
    segmenters = [first, *([GrabCutSegmenter(), GrabCutSegmenter(first)] if grabcut else [])]
    known = cutouts_of(ObjectSet(data))
    photographed = [*known.photographs, *background_photographs()]
    sets: dict[str, list[Case]] = {"held-out scenes": list(scene_cases(known, photographed, objects))}
    if cutouts:
        unseen = read_cutouts(cutouts, held_out=True)
        sets["unseen objects"] = list(scene_cases(unseen, unseen.photographs, objects))
    if photographs:
        sets["photographs"] = list(photograph_cases(photographs))
    figures: dict[str, object] = {}
    for each in segmenters:
        for name, cases in sets.items():
            found = measure(each, cases, random=random)
            figures[f"{each.name}: {name}"] = found
            log.info("%s, %s: %s", each.name, name, {key: value for key, value in found.items() if key != "each"})
    return figures
