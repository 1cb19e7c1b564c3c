"""Known objects for rehearsal: a small file that travels with a checkpoint."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path

import pytest

from training.data.object_set import ObjectSet
from training.finetune import rehearsal as known
from training.finetune.retrieval import MelRetrieval


def test_known_objects_travel_in_a_small_file(stamps_folder: Path, stamps_data: ObjectSet, tmp_path: Path) -> None:
    size = known.pack(stamps_folder, tmp_path / "a.zip")
    assert size == (tmp_path / "a.zip").stat().st_size < 40_000
    known.unpack(tmp_path / "a.zip", tmp_path / "there")
    small = ObjectSet(tmp_path / "there")
    assert [stamp.caption for stamp in small.entries] == [stamp.caption for stamp in stamps_data.entries]
    assert [stamp.licence for stamp in small.entries] == [stamp.licence for stamp in stamps_data.entries]
    ear = MelRetrieval(known.as_objects(stamps_data), 0.5)
    for number, (cutout, sound) in enumerate(zip(small.cutouts, small.recordings, strict=True)):
        whole = stamps_data.cutouts[number]
        assert abs(cutout.width / cutout.height - whole.width / whole.height) < 0.1
        assert ear.ranks(sound[None, :8000], number) == [1]


def test_what_is_no_file_of_known_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../outside.txt", "no")
    for name in ("text.zip", "other.zip", "missing.zip"):
        with pytest.raises(ValueError, match="no file of known objects"):
            known.unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


def test_half_an_unpacked_file_is_not_taken_for_the_whole(
    stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.pack(stamps_folder, tmp_path / "a.zip")
    write, written = known.write_atomic, list[Path]()

    def full(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(known, "write_atomic", full)
    with pytest.raises(OSError, match=r"there cannot be written \(No space left on device\); free some space"):
        known.unpack(tmp_path / "a.zip", tmp_path / "there")
    assert not (tmp_path / "there" / "manifest.json").exists()
    monkeypatch.undo()
    known.unpack(tmp_path / "a.zip", tmp_path / "there")
    assert len(ObjectSet(tmp_path / "there")) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '[{"name": "x"}]', "[" * 100_000, "../../etc/passwd", "/etc/passwd", "7"],
)
def test_damaged_manifests_are_one_sentence(text: str, stamps_folder: Path, tmp_path: Path) -> None:
    rows = json.loads((stamps_folder / "manifest.json").read_text())
    if "passwd" in text:
        rows[0]["image"] = text
        text = json.dumps(rows)
    if text == "7":
        rows[0]["audio"] = 7
        text = json.dumps(rows)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* make the data set again"):
        ObjectSet(tmp_path)


def test_the_file_in_the_box_is_small_and_licensed(tmp_path: Path) -> None:
    path = known.starter_objects()
    assert path.stat().st_size <= 1.5e6
    known.unpack(path, tmp_path)
    stamps = ObjectSet(tmp_path)
    assert len(stamps) > 60
    assert all("GPL" in stamp.licence and stamp.source for stamp in stamps.entries)
    assert min(len(sound) for sound in stamps.recordings) > 1000
