"""Members of archives, written here by hand after the formats' descriptions."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from training.starter.sound_archives import read_packed

SOUND = b"OggS" + bytes(range(200))


def qt_resources(version: int, packed: bool) -> bytes:
    """`sounds/cow.ogg` and `sounds/dog.ogg` as Qt's rcc lays them out."""
    names = b""
    places = []
    for name in ("sounds", "cow.ogg", "dog.ogg"):
        places.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    stored = struct.pack(">I", len(SOUND)) + zlib.compress(SOUND) if packed else SOUND
    data = struct.pack(">I", 3) + b"cow" + struct.pack(">I", len(stored)) + stored
    end = b"" if version == 1 else bytes(8)  # when the file was changed
    tree = struct.pack(">IHII", 0, 2, 1, 1) + end
    tree += struct.pack(">IHII", places[0], 2, 2, 2) + end
    tree += struct.pack(">IHHHI", places[1], 0, 0, 1, 0) + end
    tree += struct.pack(">IHHHI", places[2], int(packed), 0, 1, 7) + end
    start = 20
    where = (start + len(data) + len(names), start, start + len(data))
    return struct.pack(">4s4I", b"qres", version, *where) + data + names + tree


@pytest.mark.parametrize(("version", "packed"), [(1, False), (2, False), (3, True)])
def test_resources(tmp_path: Path, version: int, packed: bool) -> None:
    (tmp_path / "a.rcc").write_bytes(qt_resources(version, packed))
    assert read_packed(tmp_path, "a.rcc!sounds/dog.ogg") == SOUND
    assert read_packed(tmp_path, "a.rcc!sounds/cow.ogg") == b"cow"
    for member in ("sounds", "sounds/cat.ogg", "sounds/dog.ogg/more", "dog.ogg"):
        with pytest.raises(FileNotFoundError, match="another version"):
            read_packed(tmp_path, f"a.rcc!{member}")


def test_sound_sets_and_zips(tmp_path: Path) -> None:
    named = b"\x04Cow\0"
    first = 16
    table = struct.pack("<4I", first | 0x8000_0000, 3, first + len(named) + 3, len(SOUND))
    (tmp_path / "a.cat").write_bytes(table + named + b"moo" + b"\x01\0" + SOUND)
    assert read_packed(tmp_path, "a.cat!1") == SOUND
    with pytest.raises(FileNotFoundError):
        read_packed(tmp_path, "a.cat!2")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/dog.ogg", SOUND)
    assert read_packed(tmp_path, "a.zip!x/dog.ogg") == SOUND
    (tmp_path / "a.zip").rename(tmp_path / "a.sh3f")
    assert read_packed(tmp_path, "a.sh3f!x/dog.ogg") == SOUND
    (tmp_path / "dog.ogg").write_bytes(SOUND)
    assert read_packed(tmp_path, "dog.ogg") == SOUND


def test_icon_sets(tmp_path: Path) -> None:
    icons = {"dot": {"body": '<circle r="1"/>', "width": 8}, "line": {"body": "<path/>"}}
    (tmp_path / "icons.json").write_text(json.dumps({"icons": icons, "height": 24}))
    for name, box, inside in (("dot", "0 0 8 24", "circle"), ("line", "0 0 16 24", "path")):
        svg = ElementTree.fromstring(read_packed(tmp_path, f"icons.json!{name}"))
        assert (svg.tag, svg.get("viewBox")) == ("{http://www.w3.org/2000/svg}svg", box)
        assert [child.tag.rpartition("}")[2] for child in svg] == [inside]
    with pytest.raises(FileNotFoundError, match="another version"):
        read_packed(tmp_path, "icons.json!square")
    for damaged in ("[]", '{"icons": {"dot": 1}}', '{"icons": {"dot": {"body": "", "width": "wide"}}}'):
        (tmp_path / "icons.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"icons\.json is damaged"):
            read_packed(tmp_path, "icons.json!dot")


@pytest.mark.parametrize("name", ["a.zip", "a.rcc", "a.cat", "a.json"])
def test_damaged_archives_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x01")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        read_packed(tmp_path, f"{name}!1")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="no archive"):
        read_packed(tmp_path, "a.tar!1")


@pytest.mark.parametrize("path", ["../a.ogg", "/etc/hostname", "x/../../a.zip!1"])
def test_paths_stay_below_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        read_packed(tmp_path, path)


def test_members_are_bounded_whatever_their_headers_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "a.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", bytes(1 << 22))
    data = bytearray(bomb.read_bytes())
    size = data.index(b"PK\x01\x02") + 24
    data[size : size + 4] = struct.pack("<I", 100)
    bomb.write_bytes(data)
    monkeypatch.setattr("training.starter.sound_archives.MOST_MEMBER", 1000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is damaged"):
            read_packed(tmp_path, "a.zip!large")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("large", SOUND)
    with pytest.raises(ValueError, match="neither stored nor deflated"):
        read_packed(tmp_path, "a.zip!large")
