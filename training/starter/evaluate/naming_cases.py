"""Objects whose names are known, and backgrounds that have none: what naming is calibrated on and measured with.

Scenes show one to three objects or cut-outs before a photograph, and each of them is one case; what fills an image is
none of them. Half of the objects and half of the photographs are for calibration, the others for testing. A cut-out
that no label fits (`cutout_names.json` lacks it) belongs to neither half: it is neither a background nor something that
could be named.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from sounding.images.decoding import open_image

from ...data.object_set import ObjectSet
from ...data.scenes import as_tensors, background_photographs, make_scene, part_of, scene_rng
from ..cutouts import Cutouts, read_rows
from ..imagenet import class_names, known_classes
from .segment import listed_photographs

CUTOUT_NAMES = Path(__file__).parent / "cutout_names.json"
Half = Literal["calibration", "test"]
HALVES: tuple[Half, ...] = ("calibration", "test")
SIZES = ((512, 384), (384, 512), (480, 480), (640, 360))
FIRST_INDEX = 700_000  # scenes of this evaluation alone
TEXTURES = slice(0, 3)  # of scenes' photographs: grass, gravel, brick
LEAST_AREA = 0.004  # of the image; what is hidden beyond that is not asked for


@dataclass(frozen=True)
class NamingCase:
    """One selection in one image; `names` are those that count as right, none where there is nothing to name."""

    names: tuple[str, ...]
    image: Tensor  # [1, H, W, 3] 0..1
    mask: Tensor  # [1, H, W] 0..1
    shown: str  # what it is, for people


def half_of(name: str) -> Half:
    """The half that an object belongs to, by a hash of its name."""
    return HALVES[zlib.crc32(name.encode()) % 2]


def drawn_cases(stamps: ObjectSet, folder: Path, half: Half, count: int) -> Iterator[NamingCase]:
    """`count` cases of one half: four fifths are objects of scenes, one fifth are backgrounds, which have no names."""
    cutouts, names = _named_cutouts(stamps, folder, half)
    yield from scene_cases(cutouts, names, half, count - count // 5)
    yield from background_cases(cutouts.photographs, half, count // 5)


def _named_cutouts(stamps: ObjectSet, folder: Path, half: Half) -> tuple[Cutouts, list[tuple[str, ...]]]:
    """Objects and cut-outs of one half that labels fit, with their right names, and that half's photographs."""
    table = json.loads(CUTOUT_NAMES.read_text(encoding="utf-8"))
    vocabulary = class_names()
    found: list[tuple[str, Image.Image, tuple[str, ...]]] = []
    known = known_classes([entry.name for entry in stamps.entries])
    for entry, images, classes in zip(stamps.entries, stamps.images, known, strict=True):
        names = {vocabulary.names[vocabulary.phrases[number][0]] for number in classes}
        found += [(entry.caption, image, tuple(sorted(names))) for image in images if not entry.whole]
    rows = read_rows(folder)
    for row in rows:
        if row.kind == "object" and row.name in table:
            found.append((row.name, open_image(folder / row.file).convert("RGBA"), (table[row.name],)))
    chosen = [(cutout, names) for name, cutout, names in found if names and half_of(name) == half]
    backgrounds = sorted((row for row in rows if row.kind == "background"), key=lambda row: row.held_out)
    photographs = [open_image(folder / row.file).convert("RGB") for row in backgrounds]
    photographs += background_photographs()[TEXTURES]
    behind = photographs[HALVES.index(half) :: len(HALVES)]
    return Cutouts([cutout for cutout, _ in chosen], behind), [names for _, names in chosen]


def scene_cases(cutouts: Cutouts, names: list[tuple[str, ...]], half: Half, count: int) -> Iterator[NamingCase]:
    """`count` objects of scenes."""
    found, index = 0, FIRST_INDEX
    while found < count:
        index += 1
        rng = scene_rng("train" if half == "calibration" else "held-out", index)
        labels = tuple(int(i) for i in rng.choice(len(cutouts), int(rng.integers(1, 4)), replace=False))
        scene = make_scene(
            cutouts,
            rng,
            size=SIZES[index % len(SIZES)],
            labels=labels,
            backdrop=lambda rng, size: part_of(cutouts.photographs, rng, size),
        )
        image, masks = as_tensors(scene)
        for label, mask in zip(labels, masks, strict=True):
            if mask.mean() >= LEAST_AREA and found < count:
                yield NamingCase(names[label], image, mask[None], f"{' or '.join(names[label])} in scene {index}")
                found += 1


def background_cases(photographs: list[Image.Image], half: Half, count: int) -> Iterator[NamingCase]:
    """`count` selections of landscapes and textures: blobs such as a stray click selects."""
    for index in range(FIRST_INDEX, FIRST_INDEX + count):
        rng = scene_rng("train" if half == "calibration" else "held-out", index)
        size = SIZES[index % len(SIZES)]
        image = np.asarray(part_of(photographs, rng, size).convert("RGB")) / np.float32(255)
        white = Image.new("L", size)
        width, height = (rng.uniform(0.2, 0.9) * min(size) for _ in size)
        left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
        ImageDraw.Draw(white).ellipse((left, top, left + width, top + height), fill=255)
        mask = np.asarray(white.filter(ImageFilter.GaussianBlur(2))) / np.float32(255)
        yield NamingCase((), torch.from_numpy(image)[None], torch.from_numpy(mask)[None], f"background {index}")


def photograph_cases(folder: Path) -> Iterator[NamingCase]:
    """Photographs that an `index.json` lists with masks, and with `names` where a label fits what they show."""
    for row, image, white in listed_photographs(folder):
        mask = torch.from_numpy(white / np.float32(255))[None]
        yield NamingCase(tuple(row["names"]), image, mask, Path(row["file"]).stem)
