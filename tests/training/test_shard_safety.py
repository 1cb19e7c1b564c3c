"""Folders of shards that were damaged, made by somebody else, or are being made by two at once."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import sample_decoding, tar_reader
from training.data.shard_folders import find_folders
from training.data.shard_format import MOST_JSON, ShardIndex, encode_flac
from training.data.shard_writer import make_shards
from training.data.shards import Shards

from .test_shards import EVERYTHING, FEATURES, Drawn

DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    make_shards(Drawn(), out, shard_size=4)
    return out


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """A tar member; a size that is set counts, whatever `data` has."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.GNU_FORMAT)
    return header + data + bytes(-len(data) % 512)


def foreign(folder: Path, tar: bytes, **changes: Any) -> Shards:
    """A folder with one sample, whose members are `tar`."""
    shard = {"name": "shard-000000.tar", "samples": 1, "bytes": len(tar), "offsets": [0, len(tar)]} | changes
    folder.mkdir(exist_ok=True)
    (folder / "shard-000000.tar").write_bytes(tar)
    (folder / "shards.json").write_text(json.dumps({"kind": "raw", "shards": [shard], "samples": 1}))
    return Shards(folder, ("id",), optional=("captions", "waveform", "images", "masks"))


JSON = member("0.json", b'{"id": "x"}')
HOSTILE = {
    "size -512": member("0.bin", size=-512) + bytes(512),
    "size -1024": JSON + member("0.bin", size=-1024) + bytes(1024),
    "size 2^60": member("0.json", size=1 << 60),
    "a size beyond the sample": member("0.json", size=4096) + bytes(512),
    "a link": member("0.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": member("0.json", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a device": member("0.json", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a FIFO": member("0.json", type=tarfile.FIFOTYPE),
    "a folder": member("0.json", type=tarfile.DIRTYPE),
    "an extended header": member("0.json", b"30 path=../../etc/passwd\n", type=tarfile.XHDTYPE) + JSON,
    "a long name": member("0.json", b"x" * 400, type=tarfile.GNUTYPE_LONGNAME) + JSON,
    "a sparse file": member("0.json", b'{"id": "x"}', type=tarfile.GNUTYPE_SPARSE),
    "a member twice": JSON + JSON,
    "two samples": JSON + member("1.json", b"{}"),
    "no ending": member("0", b'{"id": "x"}'),
    "an absolute name": JSON + member("/etc/passwd", b"x"),
    "a name that leads out": JSON + member("../../x.json", b"{}"),
    "an image without a number": JSON + member("0.x.jpg", b"x"),
    "a number beyond digits": JSON + member(f"0.{'9' * 90}.jpg", b"x"),
    "nothing": bytes(512),
    "deep JSON": member("0.json", DEEP.encode()),
    "no object": member("0.json", b"[1]"),
    "an id that is none": member("0.json", b'{"id": [1]}'),
    "captions that are none": member("0.json", b'{"id": "x", "captions": "abc"}'),
    "a caption that is none": member("0.json", b'{"id": "x", "captions": [{}]}'),
    "no UTF-8": member("0.json", b'{"id": "\xff"}'),
    "no FLAC": JSON + member("0.flac", b"fLaC" + bytes(300)),
    "no image": JSON + member("0.0.jpg", b"\xff\xd8\xff" + bytes(300)),
    "images of two sizes": b"",  # see below
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_one_sentence(what: str, folder: Path, tmp_path: Path) -> None:
    tar = HOSTILE[what]
    if what == "images of two sizes":
        import io

        from PIL import Image

        files = []
        for number, size in enumerate(((8, 8), (9, 8))):
            file = io.BytesIO()
            Image.new("RGB", size).save(file, "JPEG")
            files.append(member(f"0.{number}.jpg", file.getvalue()))
        tar = JSON + b"".join(files)
    shards = foreign(tmp_path / "foreign", tar)
    with pytest.raises(ValueError, match=r"shard-000000\.tar") as error:
        shards[0]
    assert "\n" not in str(error.value)
    assert shards._tars._lock.acquire(timeout=1)  # nobody waits for it


def test_a_sound_of_hours_and_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_decoding, "MOST_SECONDS", 1)
    long = foreign(tmp_path / "long", JSON + member("0.flac", encode_flac(np.zeros(16_001))))
    with pytest.raises(ValueError, match="longer than 1 s"):
        long[0]
    monkeypatch.setattr(tar_reader, "MOST_BYTES", 2000)
    large = foreign(tmp_path / "large", JSON + member("0.0.jpg", bytes(3000)))
    with pytest.raises(ValueError, match="has a sample of 4,608 bytes, but at most 2,000"):
        large[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../shard-000000.tar"}, "a shard is called"),
        ({"name": "/etc/passwd"}, "a shard is called"),
        ({"name": "shard\n.tar"}, "a shard is called"),
        ({"samples": -1}, "has 2 offsets, but 0"),
        ({"samples": 2}, "has 2 offsets, but 3"),
        ({"offsets": [0, -512]}, "has the offset -512"),
        ({"offsets": [512, 0]}, "has the offset 0"),
        ({"offsets": [0, 100]}, "has the offset 100"),
        ({"offsets": [0, 1 << 70]}, "has the offset"),
        ({"offsets": [0, 1.5]}, "is damaged"),
        ({"offsets": None}, "is damaged"),
        ({"bytes": "many"}, "is damaged"),
    ],
)
def test_shards_of_a_hostile_index_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        foreign(tmp_path / "foreign", JSON, **changes)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"kind": "raw", "shards": [], "samples": 5}',
        '{"kind": "raw", "shards": [], "samples": -1}',
        '{"kind": "raw", "shards": {}, "samples": 0}',
        '{"kind": "raw", "shards": [[]], "samples": 0}',
        '{"kind": "raw", "shards": [], "samples": NaN}',
        '{"kind": "raw", "shards": [], "samples": 0, "settings": ' + DEEP + "}",
        "null",
        '"\\ud800"',
    ],
)
def test_hostile_indices_are_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(ValueError, match=r"shards\.json") as error:
        Shards(tmp_path, ("id",))
    assert len(str(error.value)) < 1000


def test_an_index_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "shards.json").open("wb") as file:
        file.truncate(MOST_JSON + 1)
    (tmp_path / "shards.json").unlink()
    (tmp_path / "shards.json").symlink_to("/dev/null")
    with pytest.raises(ValueError, match="cannot be read"):
        ShardIndex.read(tmp_path)


def test_an_empty_folder_has_no_samples(tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_text('{"kind": "raw", "shards": [], "samples": 0}')
    shards = Shards(tmp_path, ("id",))
    assert len(shards) == 0
    with pytest.raises(IndexError, match="has 0"):
        shards[0]


def test_changed_bytes_are_read_or_one_sentence(folder: Path, tmp_path: Path) -> None:
    """A thousand random changes of tar and index: an answer or a sentence, and never a hang."""
    rng = np.random.default_rng(3)
    broken = shutil.copytree(folder, tmp_path / "broken")
    tar, index = broken / "shard-000001.tar", broken / "shards.json"
    whole, text = tar.read_bytes(), index.read_bytes()
    headers = [match.start() for match in re.finditer(rb"0000000\d\d\.", whole)]
    for number in range(300):
        data = bytearray(whole)
        at = int(rng.choice(headers)) + int(rng.integers(512))
        data[at : at + 4] = bytes(rng.integers(0, 256, 4, dtype=np.uint8))
        if number % 2:  # with a checksum that fits
            start = max(header for header in headers if header <= at)
            block = data[start : start + 512]
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            data[start : start + 512] = block
        tar.write_bytes(bytes(data[: len(whole)]))
        shards = Shards(broken, EVERYTHING)
        for sample in range(4, 7):
            try:
                shards[sample]
            except ValueError as error:
                assert "shard-000001.tar" in str(error)  # noqa: PT017
    tar.write_bytes(whole)
    for _ in range(300):
        changed = bytearray(text)
        at = int(rng.integers(len(text)))
        changed[at : at + 2] = bytes(rng.choice(list(b'0-9.[]{}",'), 2).tolist())
        index.write_bytes(bytes(changed))
        try:
            shards = Shards(broken, ("id",))
            for sample in range(min(len(shards), 20)):
                shards[sample]
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_folders_combine_in_their_order(folder: Path, tmp_path: Path) -> None:
    for name, count in (("b", 6), ("a", 4)):
        make_shards(Drawn(count), tmp_path / name, shard_size=3)
    both = Shards([folder, tmp_path / "b"], EVERYTHING, optional=("masks",))
    assert len(both) == 9 + 5
    assert [both[i]["id"] for i in (0, 8, 9, 13)] == ["drawn.0/é", "drawn.10/é", "drawn.0/é", "drawn.5/é"]
    assert both[-1]["id"] == "drawn.5/é"
    assert both.index.licences == {"CC-BY": 4 + 3, "CC0": 5 + 2}
    fitting = Shards(str(tmp_path / "*"), ("id",))
    assert list(fitting.indices) == [tmp_path / "a", tmp_path / "b"]
    assert len(fitting) == 4 + 5
    assert fitting.index.samples == 9
    with pytest.raises(IndexError, match=r"a and 1 more, which has 9"):
        fitting[9]


def test_folders_that_do_not_go_together_are_named(folder: Path, tmp_path: Path) -> None:
    made = Drawn(3, features=True)
    make_shards(made, tmp_path / "one", shard_size=3)
    made.model = "cafe"
    make_shards(made, tmp_path / "two", shard_size=3)
    with pytest.raises(ValueError, match=r"holds raw shards and .*one features shards, but one kind alone"):
        Shards([folder, tmp_path / "one"], ("id",))
    with pytest.raises(ValueError, match=r"one and .*two were made with different models"):
        Shards([tmp_path / "one", tmp_path / "two"], FEATURES)
    for given, words in (
        ([], "No folder of shards came"),
        ("", "'' came for a folder of shards"),
        ("a\0b", "came for a folder of shards"),
        (str(tmp_path / "*none*"), "fits no folder of finished shards"),
        ([folder, str(folder) + "/."], "came twice"),
        ([folder, tmp_path / "none"], r"none.shards\.json is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            Shards(given, ("id",))  # type: ignore[arg-type]
    odd = tmp_path / "a[1]"
    shutil.copytree(folder, odd)
    assert find_folders(str(odd)) == [odd]
