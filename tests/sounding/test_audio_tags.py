"""Sound files of any depth and rate, and what they say of themselves, by independent readers: FFmpeg and libsndfile."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import soundfile
import torch

from sounding.audio.files import Tags, check_depth, write_audio

RATE = 16_000


def sine(rate: int) -> np.ndarray:
    """440 Hz, a second."""
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)


SOUND = torch.stack([torch.from_numpy(sine(RATE)).float(), torch.zeros(RATE)])
GRAPH = {"workflow": json.dumps({"nodes": ["}", "ä" * 400]}), "prompt": json.dumps({"1": {"class_type": "X"}})}
TAGS = Tags("dög & cow", 1.5, GRAPH)


def told(path: Path) -> dict[str, str]:
    """What FFmpeg reads."""
    with av.open(str(path)) as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) > 0
        return {**file.metadata, **file.streams[0].metadata}


@pytest.mark.parametrize(("ending", "depth"), [("wav", "16"), ("wav", "24"), ("wav", "float"), ("flac", "24")])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_any_depth_and_rate(tmp_path: Path, ending: str, depth: str, rate: int) -> None:
    path = tmp_path / f"a.{ending}"
    write_audio(path, SOUND, RATE, depth=depth, to_rate=rate, tags=TAGS)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.frames) == (rate, 2, rate)
    assert info.subtype == {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}[depth]
    sound, _ = soundfile.read(path)
    inside = slice(rate // 10, -rate // 10)  # a filter rings where a sound is cut
    step = {"16": 2**-15, "24": 2**-23, "float": 2**-24}[depth]
    np.testing.assert_allclose(sound[inside, 0], sine(rate)[inside], atol=1.5 * step + (2e-4 if rate != RATE else 1e-6))
    assert not sound[:, 1].any()


def test_floats_keep_what_is_beyond_one(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 5 * SOUND, RATE, depth="float")
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], (5 * SOUND).T.numpy())
    write_audio(tmp_path / "b.wav", 5 * SOUND, RATE, depth="24")
    assert np.abs(soundfile.read(tmp_path / "b.wav")[0]).max() <= 1


@pytest.mark.parametrize("ending", ["flac", "ogg"])
@pytest.mark.parametrize("samples", [1, 1000, 9 * RATE])
def test_comments_change_nothing_of_the_sound(tmp_path: Path, ending: str, samples: int) -> None:
    """Also with a graph of several pages of Ogg, and those that end about where a segment of a page ends."""
    sound = 0.2 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    plain, tagged = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    write_audio(plain, sound, RATE)
    before = soundfile.read(plain)[0]
    for length in (0, 167, 168, 169, 64_000, 300_000):
        graph = {"workflow": json.dumps("x" * length)}
        write_audio(tagged, sound, RATE, tags=Tags("a", graph=graph))
        assert np.array_equal(soundfile.read(tagged)[0], before)
        found = told(tagged)
        assert found["workflow"].rstrip() == graph["workflow"]
        assert found["title"] == "a"


@pytest.mark.parametrize("ending", ["flac", "ogg"])
def test_graph_and_title_are_comments(tmp_path: Path, ending: str) -> None:
    write_audio(tmp_path / f"a.{ending}", SOUND, RATE, tags=TAGS)
    found = told(tmp_path / f"a.{ending}")
    assert {name: json.loads(found[name]) for name in GRAPH} == {name: json.loads(text) for name, text in GRAPH.items()}
    assert found["title"] == TAGS.title


def test_wav_files_tell_name_time_and_graph(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, SOUND, RATE, to_rate=48_000, tags=TAGS)
    found = told(path)
    assert found["title"] == TAGS.title
    assert found["time_reference"] == "72000"
    assert found["encoded_by"] == "Sounding Objects"
    assert json.loads(found["comment"]) == {name: json.loads(text) for name, text in GRAPH.items()}
    data, at, kinds = path.read_bytes(), 12, {}
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        kinds[kind] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(data) == 8 + struct.unpack_from("<I", data, 4)[0]
    assert list(kinds)[-1] == b"data"
    tracks = ElementTree.fromstring(kinds[b"iXML"]).findall("TRACK_LIST/TRACK")
    assert [track.findtext("NAME") for track in tracks] == ["dög & cow L", "dög & cow R"]
    assert [track.findtext("INTERLEAVE_INDEX") for track in tracks] == ["1", "2"]
    assert kinds[b"bext"][:10].rstrip(b"\0") == b"d?g & cow"


def test_the_same_sound_makes_the_same_file(tmp_path: Path) -> None:
    for ending in ("wav", "flac"):
        files = [tmp_path / f"{name}.{ending}" for name in "ab"]
        for path in files:
            write_audio(path, SOUND, RATE, tags=TAGS)
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "depth", "words"),
    [
        ("a.ogg", "24", "OGG files keep no certain"),
        ("a.flac", "float", "FLAC files keep 16 or 24"),
        ("a.wav", "8", "one of 16"),
    ],
)
def test_what_a_format_does_not_keep_is_one_sentence(name: str, depth: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_depth(name, depth)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_title_that_is_no_unicode_does_not_lose_the_sound(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_audio(path, SOUND, RATE, tags=Tags("dog \ud800"))
    assert told(path)["title"] == "dog ?"
