"""Folders of items: scenes of a random stream, their files, and what is read back of them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.files import read_audio
from sounding.images.files import read_image, read_mask
from training.data.object_set import ObjectSet
from training.data.scenes import as_tensors, make_scene, scene_rng
from training.evaluate.items import ItemEntry, read_items, write_entries
from training.starter.evaluate.cli import app
from training.starter.evaluate.items import ItemsSettings, write_items
from training.starter.evaluate.sounds import held_out_pairs, held_out_scenes

SETTINGS = ItemsSettings(per_object=2, pairs=3, backgrounds=2, seconds=1.28)


@pytest.fixture(scope="module")
def items(stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(stamps_folder, tmp_path_factory.mktemp("items") / "development", SETTINGS)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_items_are_the_held_out_scenes(items: Path, stamps_data: ObjectSet) -> None:
    read = read_items(items)
    assert [item.entry.kind for item in read] == ["object"] * 6 + ["pair"] * 3 + ["background"] * 2
    scenes = held_out_scenes(stamps_data, 2) + held_out_pairs(stamps_data, 3)
    for item, (number, labels) in zip(read, scenes, strict=False):
        image, masks = as_tensors(make_scene(stamps_data, scene_rng("held-out", number), labels=labels))
        assert item.mask is not None
        torch.testing.assert_close(read_image(item.image), image, atol=1e-6, rtol=0)
        torch.testing.assert_close(read_mask(item.mask), masks[:1], atol=1e-6, rtol=0)
        assert [one.name for one in item.entry.objects] == [stamps_data.entries[label].name for label in labels]
        assert item.entry.caption == stamps_data.entries[labels[0]].caption
        left, top, right, bottom = item.entry.objects[0].box
        assert not masks[0, :top].any()
        assert not masks[0, bottom:].any()
        assert masks[0, top:bottom, left].any()
        assert masks[0, top:bottom, right - 1].any()


def test_references_are_cuts_of_the_recordings(items: Path, stamps_data: ObjectSet) -> None:
    recordings = {
        entry.name: recording for entry, recording in zip(stamps_data.entries, stamps_data.recordings, strict=True)
    }
    for item in read_items(items):
        file = items / "reference" / f"{item.name}.wav"
        assert file.is_file() == (item.entry.kind != "background")
        if file.is_file():
            sound, recording = read_audio(file, 16_000), recordings[item.entry.objects[0].name]
            assert sound.shape == (20_480,)
            (start, *_) = (sound.abs() > 0.1).nonzero()[0].tolist()
            (first, *_) = (recording.abs() > 0.1).nonzero()[0].tolist()
            repeated = sound[start : start + 4000] - recording[first : first + 4000]
            assert repeated.abs().max() < 1e-4  # the recordings are shorter, so each is there as a whole


def test_labels_say_what_is_selected_and_what_is_not(items: Path, stamps_data: ObjectSet) -> None:
    with (items / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "labels", "others"]
    for row, item in zip(rows, read_items(items), strict=True):
        assert row["name"] == item.name
        labels, others = (set(row[column].split(";")) - {""} for column in ("labels", "others"))
        assert labels == {one.name for one in item.entry.selected}
        assert labels | others == {one.name for one in item.entry.objects}
        assert not labels & others
        assert bool(labels) == (item.entry.kind != "background")


def test_backgrounds_are_all_but_the_objects(items: Path, stamps_data: ObjectSet) -> None:
    item = read_items(items)[-1]
    assert item.mask is not None
    scene = make_scene(stamps_data, np.random.default_rng([12, 200_001]))
    np.testing.assert_array_equal(np.asarray(Image.open(item.mask)), 255 - scene.masks.max(axis=0))


def test_settings_decide_every_byte(items: Path, stamps_folder: Path, tmp_path: Path) -> None:
    again = write_items(stamps_folder, tmp_path / "again", SETTINGS)
    assert content(again) == content(items)
    before = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    write_items(stamps_folder, again, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == before
    other = write_items(stamps_folder, tmp_path / "other", replace(SETTINGS, stream=77))
    same = [name for name, value in content(other).items() if content(items)[name] == value]
    assert not [name for name in same if name.startswith(("images", "masks"))]


def test_a_folder_of_other_things_is_refused(items: Path, stamps_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(pairs differ\); give another folder"):
        write_items(stamps_folder, items, replace(SETTINGS, pairs=4))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds something else"):
        write_items(stamps_folder, tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="is a file"):
        write_items(stamps_folder, tmp_path / "mine.txt", SETTINGS)
    with pytest.raises(ValueError, match="training draws its scenes from"):
        ItemsSettings(stream=11)
    with pytest.raises(ValueError, match="No items are asked for"):
        ItemsSettings(per_object=0, pairs=0, backgrounds=0)


def test_a_stopped_run_leaves_nothing(stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.starter.evaluate.items.write_audio", stop)
    with pytest.raises(KeyboardInterrupt):
        write_items(stamps_folder, tmp_path / "items", SETTINGS)
    assert not list(tmp_path.iterdir())


def test_command(stamps_folder: Path, tmp_path: Path) -> None:
    options = [
        "items",
        "--data",
        str(stamps_folder),
        "--out",
        str(tmp_path / "x"),
        "--pairs",
        "1",
        "--backgrounds",
        "0",
    ]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert [item.name for item in read_items(tmp_path / "x")] == [
        "object-00000",
        "object-00001",
        "object-00002",
        "pair-00000",
    ]


def test_folders_from_outside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder `images`"):
        read_items(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="has no items"):
        read_items(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "b.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.jpg")
    (read, _) = read_items(tmp_path)
    assert (read.name, read.mask, read.entry.caption) == ("a", None, "")
    described = tmp_path / "items.json"
    for entries, said in (
        ([ItemEntry("a", "object", ""), ItemEntry("c", "object", "")], "no image of that name"),
        ([ItemEntry("a", "object", ""), ItemEntry("A", "object", "")], "two items have one name"),
        ([ItemEntry("../a", "object", "")], "cannot be a file's name"),
    ):
        described.write_bytes(write_entries(entries, {}))
        with pytest.raises(ValueError, match=said):
            read_items(tmp_path)
    for text in ("[", "{}", '{"source": {}, "items": [1]}', '{"source": 1, "items": []}'):
        described.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            read_items(tmp_path)
    described.write_text(json.dumps({"source": {}, "items": [{"name": "a", "kind": "sky", "caption": ""}]}))
    with pytest.raises(ValueError, match="kind"):
        read_items(tmp_path)
