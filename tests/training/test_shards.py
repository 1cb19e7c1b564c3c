"""Shards as they are written and read, against webdataset's own streaming reader."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from training.data import tar_reader
from training.data.shard_format import Sample, ShardIndex, Skipped
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.source import Source

EVERYTHING = ("id", "captions", "licence", "source", "seconds", "waveform", "images")
FEATURES = ("patches", "queries", "mean", "std")


class Drawn(Source):
    """Samples that follow from their number; every fifth cannot be made, every second has masks."""

    def __init__(self, count: int = 11, features: bool = False):
        self.count, self.features = count, features
        self.kind = "features" if features else "raw"
        self.model = "f00d" if features else None

    def __len__(self) -> int:
        return self.count

    def settings(self) -> dict[str, Any]:
        return {"from": "the test", "count": self.count}

    def name(self, position: int) -> str:
        return f"drawn.{position}/é"  # an id may hold what a tar's key may not

    def make(self, position: int) -> Sample:
        if position % 5 == 4:
            raise ValueError(f"{position} is a multiple of five less one")
        rng = np.random.default_rng(position)
        masks = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8) if position % 2 else ()
        shapes = {"patches": (2, 25, 16), "queries": (2, 16), "mean": (8, 32, 16), "std": (8, 32, 16)}
        return Sample(
            id=self.name(position),
            captions=("ein Löwe", f"number {position}"),
            licence=("CC0", "CC-BY")[position % 2],
            source="the test",
            seconds=0.25,
            labels=(3, 1, 4) if position % 2 else None,
            sounding=(0, 2) if position % 2 else None,
            waveform=None if self.features else rng.uniform(-1.1, 1.1, 4000),
            images=() if self.features else tuple(rng.integers(0, 256, (11, 40, 50, 3), dtype=np.uint8)),
            masks=() if self.features else tuple(masks),
            features={name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
            if self.features
            else None,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    make_shards(Drawn(), out, shard_size=4)
    return out


def streamed(folder: Path) -> list[dict[str, Any]]:
    """The same folder by webdataset."""
    files = [str(folder / shard.name) for shard in ShardIndex.read(folder).shards]
    return list(webdataset.WebDataset(files, shardshuffle=False))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def test_random_access_gives_what_webdataset_streams(folder: Path) -> None:
    shards = Shards(folder, EVERYTHING, optional=("masks", "labels", "sounding"))
    stream = streamed(folder)
    assert len(shards) == len(stream) == 9
    for number in reversed(range(9)):
        sample, files = shards[number], stream[number]
        described = json.loads(files["json"])
        assert {name: sample[name] for name in described} == described
        waveform, rate = soundfile.read(io.BytesIO(files["flac"]), dtype="int16")
        assert rate == 16_000
        assert np.array_equal(sample["waveform"].numpy(), waveform / np.float32(32768))
        pictures = [np.asarray(Image.open(io.BytesIO(files[f"{i}.jpg"]))) for i in range(11)]
        assert np.array_equal(sample["images"].numpy(), np.stack(pictures))
        assert ("masks" in sample) == ("mask.0.png" in files)
        if "masks" in sample:
            masks = [np.asarray(Image.open(io.BytesIO(files[f"mask.{i}.png"]))) for i in range(3)]
            assert np.array_equal(sample["masks"].numpy(), np.stack(masks))


def test_what_is_read_is_what_was_given(folder: Path) -> None:
    source, shards = Drawn(), Shards(folder, EVERYTHING, optional=("masks", "labels", "sounding"))
    for number, position in enumerate(position for position in range(11) if position % 5 != 4):
        given, sample = source.make(position), shards[number]
        assert sample["id"] == given.id
        assert sample["captions"] == list(given.captions)
        np.testing.assert_allclose(sample["waveform"], given.waveform.clip(-1, 1), atol=1.01 / 32768)
        if given.masks:
            assert np.array_equal(sample["masks"], np.stack(given.masks))
            assert sample["sounding"] == [0, 2]
    assert torch.equal(shards[-1]["waveform"], shards[8]["waveform"])


def test_features_come_back_bit_by_bit(tmp_path: Path) -> None:
    source = Drawn(4, features=True)
    make_shards(source, tmp_path, shard_size=3)
    shards = Shards(tmp_path, ("id", *FEATURES), optional=("coverage",))
    assert (shards.index.kind, shards.index.model) == ("features", "f00d")
    for number in range(4):
        given = source.make(number)
        sample = shards[number]
        assert "coverage" not in sample
        for name in FEATURES:
            assert sample[name].dtype == torch.float16
            assert np.array_equal(sample[name].numpy(), given.features[name])


def test_index_counts_and_lists(folder: Path) -> None:
    index = ShardIndex.read(folder)
    assert [(shard.name, shard.samples) for shard in index.shards] == [
        ("shard-000000.tar", 4),
        ("shard-000001.tar", 3),
        ("shard-000002.tar", 2),
    ]
    assert index.samples == 9
    assert index.skipped == tuple(Skipped(f"drawn.{i}/é", f"{i} is a multiple of five less one") for i in (4, 9))
    assert index.licences == {"CC-BY": 4, "CC0": 5}
    assert (index.kind, index.model, index.settings["count"]) == ("raw", None, 11)
    assert sorted(file.name for file in folder.iterdir()) == [*(s.name for s in index.shards), "shards.json"]


def test_loader_with_processes_gives_the_same_samples(folder: Path) -> None:
    shards = Shards(folder, ("id", "waveform"))
    here = [shards[i] for i in range(len(shards))]  # files are open now, as they are copied into processes
    there = list(DataLoader(shards, batch_size=None, num_workers=2))
    assert len(there) == 9
    assert all(same(one, other) for one, other in zip(here, there, strict=True))
    batch = next(iter(DataLoader(shards, batch_size=4, num_workers=2)))
    assert torch.equal(batch["waveform"], torch.stack([sample["waveform"] for sample in here[:4]]))


def test_a_frame_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(Drawn(4, features=True), tmp_path, shard_size=3)
    whole, single = Shards(tmp_path, FEATURES), Shards(tmp_path, ("frames",))
    assert whole.only("frames")[2].keys() == {"frames"}
    read: list[int] = []
    seen = tar_reader.TarReader.read

    def counted(self: tar_reader.TarReader, place: int, start: int, size: int) -> bytes:
        read.append(size)
        return seen(self, place, start, size)

    monkeypatch.setattr(tar_reader.TarReader, "read", counted)
    patches = whole[3]["patches"]
    assert sum(read) > 2 * 2 * 8 * 32 * 16  # mean and deviation
    read.clear()
    frames = single[3]["frames"]
    assert sum(read) < 2048  # headers
    read.clear()
    assert len(frames) == 2
    assert torch.equal(frames[1], patches[1])
    assert read == [2 * 25 * 16]
    with pytest.raises(IndexError, match="Frame 2 was asked of a sample that has 2"):
        frames[2]


def test_pickles_threads_and_few_open_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_reader, "OPEN_FILES", 1)
    shards = Shards(folder, ("id", "images"))
    order = [int(i) for i in np.random.default_rng(0).integers(0, 9, 60)]
    expected = [shards[i] for i in order]
    assert len(shards._tars._files) == 1
    copy = pickle.loads(pickle.dumps(shards))
    with ThreadPoolExecutor(4) as pool:
        assert all(map(same, expected, pool.map(copy.__getitem__, order)))


def test_only_asked_fields_are_decoded(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    tar = broken / "shard-000000.tar"
    data = tar.read_bytes()
    flac = streamed(folder)[0]["flac"]
    assert data.count(flac) == 1
    tar.write_bytes(data.replace(flac, bytes(len(flac))))
    fields = ("id", "images")
    assert same(Shards(broken, fields)[0], Shards(folder, fields)[0])
    assert Shards(broken, ("id",))[0].keys() == {"id"}
    with pytest.raises(ValueError, match=r"Sample 0 of .*shard-000000\.tar.* is damaged"):
        Shards(broken, ("waveform",))[0]


def test_bad_requests_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.shards\.json is missing.*prepare"):
        Shards(tmp_path / "nowhere", ("id",))
    with pytest.raises(ValueError, match="'sound' is unknown, but one of id, captions"):
        Shards(folder, ("sound",))
    with pytest.raises(ValueError, match="raw shards, which have no 'patches'; make features"):
        Shards(folder, ("id", "patches"))
    with pytest.raises(ValueError, match=r"Sample 0 .* has no 'masks'.*optional"):
        Shards(folder, ("masks",))[0]
    with pytest.raises(IndexError, match=r"Sample 9 .* has 9"):
        Shards(folder, ("id",))[9]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "cut off or another file"),
        (lambda data: data[512:] + data[:512], r"is damaged|is not the tar"),
        (lambda data: bytes(len(data)), "is damaged"),
        (None, "cannot be read.*copy the whole folder again"),
    ],
)
def test_damaged_tars_are_named(folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    tar = broken / "shard-000001.tar"
    if damage is None:
        tar.unlink()
    else:
        tar.write_bytes(damage(tar.read_bytes()))
    shards = Shards(broken, ("id", "waveform"))
    assert shards[0]["id"] == "drawn.0/é"
    with pytest.raises(ValueError, match=message) as error:
        shards[5]
    assert "shard-000001.tar" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "raw"}', '{"kind": "odd", "shards": [], "samples": 0}'])
def test_damaged_indices_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(ValueError, match=r"shards\.json"):
        ShardIndex.read(tmp_path)


def test_index_that_does_not_count_right_is_refused(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "shards.json").read_text())
    data["shards"][0]["offsets"].pop()
    (tmp_path / "shards.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"shard-000000\.tar has 4 offsets, but 5"):
        ShardIndex.read(tmp_path)
