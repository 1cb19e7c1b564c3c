"""Soundscapes as folders of stems, and their sessions read by an independent parser."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rpp
import soundfile
import torch

from sounding.audio.placing import Place, Room
from sounding.audio.scene import Scene, boxes_of
from sounding.audio.session import SessionTrack, session_text
from sounding.audio.stems import file_name, write_stems
from sounding.audio.tracks import Track

RATE = 16_000
SOUNDS = 0.1 * torch.randn(3, 1, RATE, generator=torch.Generator().manual_seed(0))
TRACKS = [Track(-6.0, fade_in=0.1), Track(offset=1.5, fade_out=0.2), Track(muted=True)]
PLACES = [Place(-1.0, 1.0), Place(0.5, 4.0), Place(0.0, 2.0)]
NAMES = ["dog", 'a "cow"', "../hen/é"]


def scene(places: list[Place] | None = PLACES, **settings: object) -> Scene:
    return Scene(SOUNDS, RATE, TRACKS, places, seeds=[7, 8, 9], **settings)  # type: ignore[arg-type]


def played(folder: Path) -> np.ndarray:
    """What a session sounds like by the documented meaning of its settings, with half Hann windows as fades."""
    project = rpp.loads((folder / "session.rpp").read_text())
    total = np.zeros((4 * RATE, 2))
    law = math.sqrt(0.5)
    for track in project.findall(".//TRACK"):
        volume, pan, panlaw = map(float, track.find(".//VOLPAN")[1:4])
        muted, solo = map(int, track.find(".//MUTESOLO")[1:3])
        assert not solo
        item = track.find(".//ITEM")
        (source,) = item.findall(".//SOURCE")
        assert source.attrib == ["WAVE"]
        sound, rate = soundfile.read(folder / source.find("FILE")[1], always_2d=True)
        assert rate == RATE
        assert float(item.find("LENGTH")[1]) == pytest.approx(len(sound) / rate)
        assert item.find("LOOP")[1] == "0"
        if muted:
            continue
        for name, seconds in (("FADEIN", float(item.find("FADEIN")[2])), ("FADEOUT", float(item.find("FADEOUT")[2]))):
            count = round(seconds * rate)
            ramp = (0.5 - 0.5 * np.cos(np.pi * np.arange(count) / max(count, 1)))[:, None]
            if count and name == "FADEIN":
                sound[:count] *= ramp
            elif count:
                sound[-count:] *= ramp[::-1]
        sides = np.array([math.cos((1 + pan) * math.pi / 4), math.sin((1 + pan) * math.pi / 4)])
        sides = sides if panlaw == pytest.approx(law) else sides / law if pan == 0 else np.full(2, np.nan)
        start = round(float(item.find("POSITION")[1]) * rate)
        total[start : start + len(sound)] += volume * sides * sound
    return total * float(project.find("MASTER_VOLUME")[1])


def mixed(folder: Path) -> np.ndarray:
    sound, _ = soundfile.read(folder / "mix.wav", always_2d=True)
    return sound


@pytest.mark.parametrize("kind", ["dry", "placed"])
def test_a_session_sounds_like_the_mix(tmp_path: Path, kind: str) -> None:
    """Dry stems too, where the scene muffles nothing; loudness and ceiling of the mix are the session's volume."""
    room = Room(distance=0.5) if kind == "placed" else Room(distance=0.0, width=0.8)
    write_stems(tmp_path / "stems", scene(room=room, loudness=-30.0), NAMES, kind=kind)
    mix, total = mixed(tmp_path / "stems"), played(tmp_path / "stems")
    assert np.abs(mix).max() > 0.01
    np.testing.assert_allclose(total[: len(mix)], mix, atol=1e-5)
    assert not total[len(mix) :].any()


def test_tracks_without_places_are_as_they_are(tmp_path: Path) -> None:
    write_stems(tmp_path / "stems", scene(None), NAMES)
    mix = mixed(tmp_path / "stems")
    np.testing.assert_allclose(played(tmp_path / "stems")[: len(mix)], mix.repeat(2, axis=1), atol=1e-5)


def test_what_each_stem_is(tmp_path: Path) -> None:
    masks = torch.zeros(3, 40, 60)
    masks[0, 5:20, 10:30] = masks[1, 39:, 59:] = 1
    places = [PLACES[0], PLACES[1], None]
    given = scene(places, boxes=boxes_of(masks), sizes=[(60, 40)] * 3)  # type: ignore[arg-type]
    files = write_stems(tmp_path / "new" / "stems", given, NAMES, ending=".flac", to_rate=48_000)
    folder = tmp_path / "new" / "stems"
    assert sorted(path.name for path in files) == sorted(path.name for path in folder.iterdir())
    assert [path.name for path in tmp_path.joinpath("new").iterdir()] == ["stems"]
    listed = json.loads((folder / "stems.json").read_text())
    assert listed["sample_rate"] == soundfile.info(folder / listed["mix"]).samplerate == 48_000
    dog, cow, hen = listed["stems"]
    assert [each["box"] for each in (dog, cow, hen)] == [[10, 5, 30, 20], [59, 39, 60, 40], None]
    assert [each["seed"] for each in (dog, cow, hen)] == [7, 8, 9]
    assert (dog["gain_db"], dog["pan"], dog["fade_in"]) == (-6.0, -1.0, 0.1)
    assert (cow["offset"], cow["distance"], cow["place_gain_db"]) == (1.5, 4.0, pytest.approx(-20 * math.log10(2)))
    assert hen["muted"]  # what is absent is silent in the session too
    assert [each["file"] for each in (dog, cow, hen)] == ["01_dog.flac", "02_a_cow.flac", "03_hen_é.flac"]


def test_stems_of_loops_are_loops_at_any_rate(tmp_path: Path) -> None:
    """They are resampled as a circle, so that rolled sounds make rolled files."""
    folders = []
    for shift in (0, 4000):
        rolled = Scene(SOUNDS.roll(shift, dims=-1), RATE, [Track()] * 3, PLACES, loop=True)
        folders.append(tmp_path / str(shift))
        write_stems(folders[-1], rolled, ["a", "b", "c"], kind="placed", depth="float", to_rate=48_000)
    for name in ("01_a.wav", "mix.wav"):
        plain, rolled = (soundfile.read(folder / name)[0] for folder in folders)
        np.testing.assert_allclose(np.roll(plain, 3 * 4000, axis=0), rolled, atol=1e-5)
    items = rpp.loads((folders[0] / "session.rpp").read_text()).findall(".//ITEM")
    assert [item.find("LOOP")[1] for item in items] == ["1"] * 3  # dragged further, an item repeats
    with pytest.raises(ValueError, match=r"offset is 1.5 s in a scene of loops, but loops neither begin nor end"):
        scene(loop=True)


def test_nothing_is_overwritten_and_nothing_is_left_of_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already, but a new folder is expected"):
        write_stems(tmp_path / "full", scene(), NAMES)
    with pytest.raises(ValueError, match="There are 1 names for 3 tracks"):
        write_stems(tmp_path / "stems", scene(), ["dog"])
    monkeypatch.setattr("sounding.audio.stems.session_text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_stems(tmp_path / "stems", scene(), NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("name", ['"', "'", "`", "\"'`", "a\nb", "", "<TRACK", "> 1", "日本"])
def test_names_of_any_letters(name: str) -> None:
    project = rpp.loads(session_text([SessionTrack(name, file_name(1, name, ".wav"), 1.0)], RATE))
    (track,) = project.findall(".//TRACK")
    found = track.find("NAME")
    assert (found[1] if len(found) > 1 else "") == name.replace("\n", "\\n").replace("\"'`", "''`")


def test_file_names_are_short_and_plain() -> None:
    assert file_name(3, "../../etc/passwd", ".wav") == "03_etc_passwd.wav"
    assert file_name(1, "?*:|", ".wav") == "01_sound.wav"
    assert len(file_name(1, "犬" * 300, ".wav").encode()) < 140


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    files = write_stems(tmp_path / "link", scene(), NAMES)
    assert files[-1] == tmp_path / "link" / "stems.json"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "stems.json").is_file()
