"""The starter's tables of kinds and recordings, and the data set that is built from such tables, on tones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from training.starter import soundfonts
from training.starter.kinds import Kind, Sources, read_kinds, read_sources
from training.starter.soundfonts import Notes, parse_notes, play
from training.starter.starter_data import build, download_commands

KINDS = [{"name": "low", "caption": "a low tone"}, {"name": "high", "caption": "a high tone", "ambience": True}]
TABLE: dict[str, Any] = {
    "packages": {
        "games": {"from": "Debian", "version": "1.0", "licence": "CC0-1.0", "credit": "A. Player"},
        "gone": {"from": "PyPI", "version": "2.0", "licence": "MIT", "credit": "B. Gone"},
    },
    "recordings": [
        {"kind": "low", "package": "games", "path": "low.wav", "split": "train", "start": 1.0, "seconds": 0.5},
        {"kind": "low", "package": "games", "path": "other.wav", "split": "test", "licence": "GPL-2.0-only"},
        {"kind": "low", "package": "gone", "path": "gone.wav", "split": "train"},
        {"kind": "low", "package": "games", "path": "missing.wav", "split": "train"},
        {"kind": "low", "package": "games", "path": "damaged.wav", "split": "train"},
    ],
    "without_recording": {"high": "nothing found"},
    "left_out": [],
}


def tables(folder: Path, *, kinds: Any = KINDS, table: Any = TABLE) -> tuple[list[Kind], Sources]:
    (folder / "kinds.json").write_text(json.dumps(kinds))
    (folder / "recordings.json").write_text(json.dumps(table))
    read = read_kinds(folder / "kinds.json")
    return read, read_sources(read, folder / "recordings.json")


def tone(hertz: float, seconds: float) -> Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(16000 * seconds)) / 16000)


def changed(row: int, **values: Any) -> dict[str, Any]:
    rows = [dict(recording) for recording in TABLE["recordings"]]
    rows[row].update(values)
    return {**TABLE, "recordings": rows}


def test_the_starters_tables_are_consistent() -> None:
    kinds = read_kinds()
    sources = read_sources(kinds)  # classes, phrases, splits, licences and kinds without recordings are checked here
    assert len(kinds) >= 130
    assert sum(len(kind.stamp) for kind in kinds) == 79
    several = {r.kind for r in sources.recordings if r.split == "train"} & {
        r.kind for r in sources.recordings if r.split == "test"
    }
    assert len(several) >= 90
    for package in sources.packages.values():
        assert all((package.version, package.licence, package.credit))
    for recording in sources.recordings:
        if recording.notes:
            parse_notes(recording.notes)


def test_recordings_are_cut_and_described(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_audio(source / "low.wav", torch.cat([torch.zeros(16000), tone(200, 2.0)]), 16000)
    write_audio(source / "other.wav", torch.cat([torch.zeros(8000), tone(300, 0.7), torch.zeros(8000)]), 16000)
    (source / "damaged.wav").write_bytes(b"no sound")
    _, sources = tables(tmp_path)
    built = build(source, tmp_path / "out", sources, "train")
    assert built.missing_packages == ("gone",)
    assert built.missing_files == ("missing.wav",)
    assert len(built.unreadable) == 1
    assert "damaged.wav" in built.unreadable[0]
    (first,) = json.loads((tmp_path / "out" / "recordings.json").read_text())
    build(source, tmp_path / "test", sources, "test")
    (second,) = json.loads((tmp_path / "test" / "recordings.json").read_text())
    assert (first["split"], first["licence"], second["split"], second["licence"]) == (
        "train", "CC0-1.0", "test", "GPL-2.0-only",
    )  # fmt: skip
    assert first["seconds"] == pytest.approx(0.5, abs=0.01)
    assert second["seconds"] == pytest.approx(0.7, abs=0.05)  # without the silence around it
    heard = read_audio(tmp_path / "out" / first["file"], 16000)
    assert float(heard.abs().max()) == pytest.approx(0.5, abs=0.01)
    assert int(torch.fft.rfft(heard, 16000).abs().argmax()) == pytest.approx(200, abs=3)
    assert float(heard[-20:].abs().max()) < 0.1  # faded where it was cut
    files = sorted((tmp_path / "out" / "audio").iterdir())
    before = [file.read_bytes() for file in files]
    build(source, tmp_path / "out", sources, "train")
    assert [file.read_bytes() for file in files] == before


def test_nothing_unpacked_is_one_sentence(tmp_path: Path) -> None:
    _, sources = tables(tmp_path)
    with pytest.raises(FileNotFoundError, match="starter data --packages"):
        build(tmp_path, tmp_path / "out", sources, "train")


def test_packages_are_fetched_by_their_own_clients(tmp_path: Path) -> None:
    _, sources = tables(tmp_path)
    assert download_commands(sources.packages) == [
        "apt-get download games && dpkg -x games_*.deb FOLDER",
        "pip download --no-deps gone==2.0 && unzip -o gone-2.0-*.whl -d FOLDER",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(0, kind="middle"), "not in the table of kinds"),
        (changed(0, package="nobody"), "which is not listed"),
        (changed(0, licence="GPL-2.0-only"), "does not allow that"),
        (changed(1, path="low.wav"), "in both splits"),
        (changed(3, path="gone.wav", package="gone"), "came twice"),
        (changed(0, split="dev"), "is damaged"),
        ({**TABLE, "without_recording": {}}, "high"),
        ({**TABLE, "without_recording": {"high": "", "low": ""}}, "low"),
    ],
)
def test_wrong_recordings_are_refused(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tables(tmp_path, table=table)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"name": "high", "caption": "A low tone"}, "phrase"),
        ({"name": "high", "caption": "high", "classes": [1000]}, "0 to 999"),
        ({"name": "high", "caption": "high", "classes": [7, 7]}, "0 to 999"),
        ({"name": "high"}, "is damaged"),
    ],
)
def test_wrong_kinds_are_refused(kind: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tables(tmp_path, kinds=[KINDS[0], kind])


def test_notes_are_pitches_and_lengths() -> None:
    assert parse_notes("60:0.5 -:1 64+67:2") == [Notes((60,), 0.5), Notes((), 1.0), Notes((64, 67), 2.0)]
    for wrong in ("", "-:1", "128:1", "60", "60:0", "sixty:1", f"60:{np.nan}"):
        with pytest.raises(ValueError, match=r"expected|no notes"):
            parse_notes(wrong)


def test_a_soundfont_that_crashes_its_synthesizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As damaged ones do; the next one is played."""
    (tmp_path / "tinysoundfont.py").write_text(
        "import array, os\n"
        "class Synth:\n"
        "    def __init__(self, samplerate): pass\n"
        "    def sfload(self, path): return os.abort() if 'damaged' in path else 1\n"
        "    def program_select(self, *where): pass\n"
        "    def sounds_off(self): pass\n"
        "    def noteon(self, *note): pass\n"
        "    def noteoff(self, *note): pass\n"
        "    def generate(self, samples): return array.array('f', [0.5] * 2 * samples)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("damaged", "whole"):
        (tmp_path / f"{name}.sf2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged.sf2 cannot be played"):
        play(tmp_path / "damaged.sf2", 0, 0, parse_notes("60:0.5"), 100)
    assert play(tmp_path / "whole.sf2", 0, 0, parse_notes("60:0.5"), 100).tolist() == [0.5] * 300
    with pytest.raises(FileNotFoundError, match=r"none.sf2 is missing"):
        play(tmp_path / "none.sf2", 0, 0, parse_notes("60:0.5"), 100)
    soundfonts._process().shutdown()
    soundfonts._process.cache_clear()
