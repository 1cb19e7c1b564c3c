"""Cut-outs of anything and photographs to put behind them, all from Debian packages, for the segmenter.

The stamps that sound (`stamps.py`) are some 80; `tuxpaint-stamps-default` has five times as many things
with an alpha channel. `mate-backgrounds` and `lomiri-wallpapers-16.04` have photographs of landscapes and leaves.
Get each package with `apt-get download NAME && dpkg -x NAME_*.deb FOLDER`, all into one folder, then

    python -m training starter cutouts --source FOLDER --out data/cutouts

writes `object/NAME.png`, `background/NAME.jpg` and `manifest.json`, which marks a part as held out: neither those
objects nor those backgrounds are ever trained on.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from sounding.config import from_dict
from sounding.images.decoding import open_image
from sounding.utils.files import write_atomic

from ..data.object_set import MOST_MANIFEST, ObjectSet, without_margin
from ..data.shard_format import read_json
from .stamps import LICENCE, find_stamps

Kind = Literal["object", "background"]
GPL = "GPL-2.0-or-later (mate-backgrounds, see the package's copyright file)"
CC_BY = "CC-BY-4.0 (lomiri-wallpapers, Aitzol Berasategi 2018)"
BACKGROUNDS = {  # landscapes and surfaces; nothing in them that one would click
    "Dune.jpg": GPL, "Wood.jpg": GPL, "Storm.jpg": GPL, "GreenMeadow.jpg": GPL, "RainDrops.jpg": GPL, "Blinds.jpg": GPL,
    "aitzgorri_by_Aitzol_Berasategi.jpg": CC_BY, "sunset_by_Aitzol_Berasategi.jpg": CC_BY,
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": CC_BY, "life_by_Aitzol_Berasategi.jpg": CC_BY,
}  # fmt: skip
HELD_OUT_BACKGROUNDS = ("Dune.jpg", "life_by_Aitzol_Berasategi.jpg")
LEAST_SIDE, LARGEST_SIDE, BACKGROUND_SIDE = 48, 400, 1280


@dataclass(frozen=True)
class Cutout:
    """One image; `file` is relative to the manifest."""

    name: str
    kind: Kind
    file: str
    held_out: bool
    source: str
    licence: str


class Cutouts:
    """Objects (PIL RGBA) as `make_scene` takes them, and the photographs to put behind (PIL RGB)."""

    def __init__(self, cutouts: list[Image.Image], photographs: list[Image.Image]):
        self.cutouts, self.photographs = cutouts, photographs

    def __len__(self) -> int:
        return len(self.cutouts)


def read_rows(folder: Path) -> list[Cutout]:
    """The manifest of a folder that `collect` wrote.

    Raises:
        FileNotFoundError: no such folder; says how to make it.
        ValueError: it is damaged.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} is missing; make it with `python -m training starter cutouts --out {folder}`."
        )
    try:
        return [from_dict(Cutout, row) for row in read_json(manifest, MOST_MANIFEST)]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); make the data set again.") from None


def read_cutouts(folder: Path, *, held_out: bool) -> Cutouts:
    """One of the two parts of a folder that `collect` wrote.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`.
    """
    rows = [row for row in read_rows(folder) if row.held_out == held_out]
    return Cutouts(
        [open_image(folder / row.file).convert("RGBA") for row in rows if row.kind == "object"],
        [open_image(folder / row.file).convert("RGB") for row in rows if row.kind == "background"],
    )


def cutouts_of(objects: ObjectSet) -> Cutouts:
    """All that is cut out in a set of objects, silent things too, and its backgrounds; images with a rectangle for an
    outline are left out.
    """
    every = [image for images in objects.images for image in images]
    outlined = [image for image in every if int(np.asarray(image.getchannel("A")).min()) < 128]
    return Cutouts([*outlined, *objects.silent], objects.backgrounds)


def _is_object(picture: Image.Image) -> bool:
    """Whether an alpha channel cuts something out of [H, W] that is neither tiny nor a haze."""
    alpha = np.asarray(picture.getchannel("A"))
    solid, touched = (alpha > 200).mean(), (alpha > 8).mean()
    return min(picture.size) >= LEAST_SIDE and solid > 0.08 and solid > 0.7 * touched


def collect(source: Path, out: Path) -> list[Cutout]:
    """Write the data set from unpacked packages under `source` and return its manifest."""
    for kind in ("object", "background"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    sounding = set(find_stamps(source))
    rows: list[Cutout] = []
    for path in sorted((source / "usr/share/tuxpaint/stamps").rglob("*.png")):
        if path in sounding or {"symbols", "cartoon", "roadsigns"} & set(path.parts) or path.stem.endswith("_mirror"):
            continue
        picture = without_margin(Image.open(path).convert("RGBA"))
        if not _is_object(picture):
            continue
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        name = "-".join(path.relative_to(source / "usr/share/tuxpaint/stamps").with_suffix("").parts)
        picture.save(out / "object" / f"{name}.png")
        held_out = zlib.crc32(name.encode()) % 8 == 0
        rows.append(Cutout(name, "object", f"object/{name}.png", held_out, f"tuxpaint-stamps: {path.name}", LICENCE))
    for path in sorted((source / "usr/share/backgrounds").rglob("*.jpg")):
        if path.name not in BACKGROUNDS:
            continue
        photograph = Image.open(path).convert("RGB")
        photograph.thumbnail((BACKGROUND_SIDE, BACKGROUND_SIDE), Image.Resampling.LANCZOS)
        photograph.save(out / "background" / path.name, quality=92)
        held_out = path.name in HELD_OUT_BACKGROUNDS
        file, licence = f"background/{path.name}", BACKGROUNDS[path.name]
        rows.append(Cutout(path.stem, "background", file, held_out, path.name, licence))
    write_atomic(out / "manifest.json", json.dumps([asdict(row) for row in rows], indent=1).encode())
    return rows
