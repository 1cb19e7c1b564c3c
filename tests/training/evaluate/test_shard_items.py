"""Items of a test set's raw shards: their files, their labels, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.files import read_audio
from training.data.shard_format import Sample
from training.data.shard_writer import make_shards
from training.data.source import Source
from training.evaluate.cli import app
from training.evaluate.items import read_items, read_seconds

IDS = ("dog_30", "my/rain_0", "quiet_5.5")


class Clips(Source):
    """Three clips: with two masks of which one sounds, with masks alone, and without any."""

    def __init__(self, ids: tuple[str, ...] = IDS):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def settings(self) -> dict[str, Any]:
        return {"ids": list(self.ids)}

    def name(self, position: int) -> str:
        return self.ids[position]

    def make(self, position: int) -> Sample:
        masks = np.zeros((2, 6, 8), np.uint8)
        masks[0, :3], masks[1, :, 6:] = 255, 200
        return Sample(
            id=self.ids[position],
            captions=(f"clip {position}", "another"),
            licence="CC0",
            source="the test",
            seconds=1.0,
            waveform=np.full(16_000 - 4000 * position, 0.25, np.float32),
            images=tuple(np.full((6, 8, 3), 50 * number, np.uint8) for number in range(1 if position < 2 else 3)),
            masks=tuple(masks) if position < 2 else (),
            labels=(3, 4) if position == 0 else None,
            sounding=(1,) if position == 0 else None,
        )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "shards"
    make_shards(Clips(), out)
    return out


def written(shards: Path, folder: Path) -> Any:
    (folder / "list.csv").write_text(
        '# YTID, start_seconds, end_seconds, positive_labels\ndog, 30.000, 40.000, "/m/a,/m/b"\nother, 0, 10, "/m/a"\n'
    )
    (folder / "classes.csv").write_text('index,mid,display_name\n0,/m/a,Dog\n1,/m/b,"Bark, yap"\n')
    lists = ["--csv", str(folder / "list.csv"), "--classes", str(folder / "classes.csv")]
    return CliRunner().invoke(
        app, ["items", "--shards", str(shards), "--out", str(folder / "items"), *lists, "--quiet"]
    )


def test_clips_become_items(shards: Path, tmp_path: Path) -> None:
    result = written(shards, tmp_path)
    assert result.exit_code == 0, result.output
    items = read_items(tmp_path / "items")
    assert [item.name for item in items] == ["dog_30", "my__rain_0", "quiet_5.5"]
    assert [item.entry.caption for item in items] == ["clip 0", "clip 1", "clip 2"]
    masks = [None if item.mask is None else np.asarray(Image.open(item.mask)) for item in items]
    assert masks[2] is None
    assert masks[0] is not None
    assert masks[1] is not None
    assert set(np.unique(masks[0])) == {0, 200}  # what sounds, alone
    assert np.array_equal(masks[1] > 0, (np.arange(6) < 3)[:, None] | (np.arange(8) > 5)[None])
    assert np.abs(np.asarray(Image.open(items[2].image)).astype(int) - 50).max() <= 2  # the middle one of three
    for position, item in enumerate(items):
        sound = read_audio(tmp_path / "items" / "reference" / f"{item.name}.wav", 16_000)
        assert sound.numpy() == pytest.approx(np.full(16_000 - 4000 * position, 0.25), abs=1e-4)
    with (tmp_path / "items" / "labels.csv").open(newline="") as file:
        rows = {row["name"]: row["labels"] for row in csv.DictReader(file)}
    assert rows == {"dog_30": "Dog;Bark, yap", "my__rain_0": "", "quiet_5.5": ""}
    assert read_seconds(tmp_path / "items") == 1.0


def test_the_same_items_stay_and_others_are_refused(shards: Path, tmp_path: Path) -> None:
    assert written(shards, tmp_path).exit_code == 0
    image = tmp_path / "items" / "images" / "dog_30.png"
    image.write_bytes(b"kept")
    assert written(shards, tmp_path).exit_code == 0
    assert image.read_bytes() == b"kept"
    make_shards(Clips(IDS[:2]), tmp_path / "fewer")
    result = written(tmp_path / "fewer", tmp_path)
    assert result.exit_code == 1
    assert "something else than these items" in result.stderr


def test_two_clips_of_one_name_are_refused(tmp_path: Path) -> None:
    make_shards(Clips(("Dog_30", "dog_30")), tmp_path / "shards")
    result = written(tmp_path / "shards", tmp_path)
    assert result.exit_code == 1
    assert "Two clips are called dog_30" in result.stderr
    assert not (tmp_path / "items").exists()


def test_a_list_without_its_classes_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("")
    command = ["items", "--shards", str(shards), "--out", str(tmp_path / "items"), "--csv", str(tmp_path / "list.csv")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "--csv came without --classes" in result.stderr
