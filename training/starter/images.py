"""Images of what the starter knows, of silent things, and backgrounds, from Debian packages that may be passed on.

`tables/images.json` lists them in three parts: `kinds` (images of the kinds of `tables/kinds.json`: cut-outs where the
file has an alpha channel, else photographs cropped to their object, or whole photographs of ambiences), `silent`
(cut-outs and photographs of things that make no sound that a kind stands for, so that the model learns to say so) and
`backgrounds` (photographs without a thing that one would click, to paste scenes on). Each row names its package, its
split ("train" or "test": the latter takes part in no training) and, where the package has several, its own
licence. What trains may be passed on under GPL-3.0-or-later.

    python -m training starter images --packages
    python -m training starter images --source FOLDER --out data/images

The first command prints how to get the packages; the second writes `PART/NAME.png` (RGBA) or `PART/NAME.jpg` and
`manifest.json`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from sounding.config import from_dict
from sounding.utils.files import write_atomic

from ..data.object_set import MANIFEST, MOST_MANIFEST
from ..data.shard_format import read_json
from .packages import Package, crop, missing_packages, packages_of, read_image

TABLE = Path(__file__).with_name("tables") / "images.json"
Part = Literal["kinds", "silent", "backgrounds"]
Split = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("kinds", "silent", "backgrounds")
LARGEST_SIDE = {"kinds": 640, "silent": 400, "backgrounds": 1280}  # pixels
OPAQUE = 8  # of 255: less alpha counts as nothing


@dataclass(frozen=True)
class ImageEntry:
    """A row of the manifest; `file` is relative to it, `kind` is empty outside of the part "kinds"."""

    name: str
    part: Part
    kind: str
    file: str
    cutout: bool
    split: Split
    source: str
    licence: str


def read_table(table: Path = TABLE) -> dict[str, Any]:
    """The list of images that comes with the code."""
    content: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return content


def read_entries(folder: Path) -> list[ImageEntry]:
    """The manifest of a folder that `build` wrote.

    Raises:
        FileNotFoundError: there is no manifest; the message says how to make one.
        ValueError: it is damaged, or lists files outside of its folder.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} is missing; make it with `python -m training starter images --out {folder}`."
        )
    try:
        entries = [from_dict(ImageEntry, row) for row in read_json(manifest, MOST_MANIFEST)]
        for entry in entries:
            if not (folder / entry.file).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{entry.file[:100]!r} is not in its folder")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); make the images again.") from None
    return entries


def build(
    source: Path, out: Path, table: dict[str, Any] | None = None
) -> tuple[list[ImageEntry], list[Package], list[str]]:
    """Write the images found under `source` to `out`.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        table: what to look for; without it what comes with the code.

    Returns:
        The manifest, the packages that are missing, and a sentence per image of the others that cannot be read or is
        not cut out as listed. All of these are left out.

    Raises:
        FileNotFoundError: none of the packages is there.
    """
    content = table or read_table()
    packages = packages_of(content)
    missing = missing_packages(source, packages, (row for part in PARTS for row in content[part]))
    if len(missing) == len(packages):
        raise FileNotFoundError(
            f"No images under {source}; `python -m training starter images --packages` prints how to get the packages."
        )
    entries: list[ImageEntry] = []
    problems: list[str] = []
    lacking = {package.name for package in missing}
    for part in PARTS:
        (out / part).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(content[part]):
            if row["package"] in lacking:
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
    write_atomic(out / MANIFEST, json.dumps([asdict(entry) for entry in entries], indent=1).encode())
    return entries, missing, problems


def _prepared(image: Image.Image, row: dict[str, Any], largest: int) -> Image.Image:
    """Cropped, without a transparent margin, and no larger than `largest` pixels: RGBA of a cut-out, else RGB."""
    box = tuple(row["crop"]) if "crop" in row else None
    image = crop(image, box)
    if row.get("cutout", False):
        image = image.convert("RGBA")
        opaque = image.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE))
        if opaque.getextrema() != (0, 255):
            raise ValueError(f"{row['path']} is listed as a cut-out, but its alpha channel cuts nothing out.")
        image = image.crop(opaque.getbbox())
    else:
        image = image.convert("RGB")
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return image


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
