"""Preparing shards from videos, pairs, scenes and shards, on material made here: known colours, known tones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from sounding.config import QueryConfig, SoundingConfig
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel
from training.data import features, scenes
from training.data import shard_writer as making
from training.data.clip_lists import Clip, read_clips
from training.data.object_set import ObjectSet
from training.data.pairs import PairSource
from training.data.prepare import app
from training.data.scene_source import SceneSource
from training.data.shard_format import Sample, ShardIndex
from training.data.shard_writer import Source, make_shards
from training.data.shards import Shards
from training.data.videos import VideoSource, read_frames, read_sound
from training.tasks.grounded import GroundedItems, GroundedSettings

from ..conftest import ROOT, heed_ctrl_c

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200))
TONES = (300.0, 700.0, 1100.0, 1900.0, 2700.0, 3500.0)
CODECS = {".mp4": ("mpeg4", "aac", 44_100), ".webm": ("libvpx", "libopus", 48_000), ".mkv": ("libx264", "flac", 22_050)}


def write_video(file: Path, seconds: int = 6, *, sound: bool = True, pictures: bool = True, level: float = 0.4) -> None:
    """In second `s` colour `s` is seen (64 x 48) and tone `s` is heard, equally in both channels."""
    picture_codec, sound_codec, rate = CODECS[file.suffix]
    with av.open(str(file), "w") as container:
        streams = {}
        if pictures:
            streams["video"] = container.add_stream(picture_codec, rate=10, width=64, height=48, pix_fmt="yuv420p")
        if sound:
            streams["audio"] = container.add_stream(sound_codec, rate=rate, layout="stereo")
        for second in range(seconds):
            for _ in range(10 * pictures):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), COLOURS[second], np.uint8), format="rgb24")
                container.mux(streams["video"].encode(frame))
            if sound:
                wave = level * np.sin(2 * math.pi * TONES[second] * np.arange(rate) / rate)
                packed = np.repeat((wave * 32767).astype(np.int16), 2)[None]
                heard = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
                heard.sample_rate, heard.pts = rate, second * rate
                container.mux(streams["audio"].encode(heard))
        for stream in streams.values():
            container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and cut, good and bad ones."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    write_video(folder / "whole-mp4.mp4")
    write_video(folder / "more" / "-whole_webm.webm")
    write_video(folder / "cut_2.mkv", 3)  # its clip begins at second 2 of a video that is not here
    write_video(folder / "silent.mp4", level=0.0)
    write_video(folder / "mute.mp4", 3, sound=False)
    write_video(folder / "blind.mp4", 3, pictures=False)
    (folder / "broken.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (folder / "whole-mp4.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


ROWS = [
    ("whole-mp4", 2, "a tone, then a higher one"),
    ("missing", 0, "nothing"),
    ("-whole_webm", 1, "tones"),
    ("broken", 0, "noise"),
    ("whole-mp4", 2, "three tones"),
    ("cut", 2, "the rest"),
    ("mute", 0, "no sound"),
    ("blind", 0, "no pictures"),
    ("silent", 0, "silence"),
    ("half", 0, "cut off"),
    ("whole-mp4", 5, "too short"),
]


@pytest.fixture(scope="module")
def audiocaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lists") / "test.csv"
    lines = [f'{i},{video},{start},"{caption}"' for i, (video, start, caption) in enumerate(ROWS)]
    file.write_text("audiocap_id,youtube_id,start_time,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


def video_source(audiocaps: Path, videos: Path, **changes: Any) -> VideoSource:
    settings: dict[str, Any] = {"seconds": 3.0, "frames": 3, "size": 32, "licence": "CC-BY"}
    return VideoSource(read_clips(audiocaps), videos, **(settings | changes))


def content(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def tone_of(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * 16_000 / len(waveform))


@pytest.mark.parametrize("name", ["whole-mp4.mp4", "more/-whole_webm.webm"])
@pytest.mark.parametrize("start", [0.0, 2.0, 3.5])
def test_sound_and_frames_are_those_of_the_asked_moment(videos: Path, name: str, start: float) -> None:
    sound = read_sound(videos / name, start, 2.5)
    assert sound.dtype == np.float32
    assert len(sound) == 40_000
    for moment in np.arange(start + 0.25, start + 2.4, 0.5):  # halves of seconds, so tones never change within
        at = int((moment - start) * 16_000)
        piece = sound[at - 2400 : at + 2400]
        assert tone_of(piece) == pytest.approx(TONES[int(moment)], abs=5)
        assert np.abs(piece).max() == pytest.approx(0.4, abs=0.05)  # two equal channels are as loud as one
    times = [start + 0.25, start + 0.75, start + 1.25, start + 2.25]
    for time_, frame in zip(times, read_frames(videos / name, times, 24), strict=True):
        assert frame.shape == (24, 32, 3)
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), COLOURS[int(time_)], atol=12)


def test_sound_begins_to_the_millisecond(videos: Path) -> None:
    """Whether decoding began at the file's start or was sought makes no difference."""
    for name in ("whole-mp4.mp4", "more/-whole_webm.webm"):
        whole = read_sound(videos / name, 0.0, 6.0)
        part = read_sound(videos / name, 3.3, 1.0)
        shifts = range(-40, 41)
        errors = [np.square(part[100:-100] - whole[52_900 + shift :][:15_800]).mean() for shift in shifts]
        assert abs(shifts[int(np.argmin(errors))]) <= 16


def write_aac(file: Path, rate: int, layout: str, pitch: float) -> None:
    """Two seconds of a tone, as broadcasts have them: frames one after another, each with its own rate."""
    with av.open(str(file), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        wave = (0.4 * np.sin(2 * math.pi * pitch * np.arange(2 * rate) / rate)).astype(np.float32)
        for start in range(0, len(wave), 1024):
            packed = np.repeat(wave[None, start : start + 1024], 1 + (layout == "stereo"), axis=0)
            frame = av.AudioFrame.from_ndarray(packed, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_sound_that_changes_its_rate_is_read_on(tmp_path: Path) -> None:
    parts = [(44_100, "stereo", 500.0), (22_050, "mono", 1500.0), (48_000, "stereo", 2500.0)]
    for number, (rate, layout, pitch) in enumerate(parts):
        write_aac(tmp_path / f"{number}.aac", rate, layout, pitch)
    file = tmp_path / "all.aac"
    file.write_bytes(b"".join((tmp_path / f"{number}.aac").read_bytes() for number in range(3)))
    sound = read_sound(file, 0.0, 20.0)
    assert len(sound) / 16_000 == pytest.approx(6, abs=0.3)
    for number, (_, _, pitch) in enumerate(parts):
        piece = sound[int((2.05 * number + 0.5) * 16_000) :][:16_000]
        assert tone_of(piece) == pytest.approx(pitch, abs=5)
        assert np.abs(piece).max() == pytest.approx(0.4, abs=0.05)


def test_times_beyond_a_video_and_videos_of_nothing_are_skipped(videos: Path, tmp_path: Path) -> None:
    for start in (1e15, 1e300, 7.0):
        clip = Clip("whole-mp4", start, None, ("x",))
        source = VideoSource([clip], videos, seconds=3.0, frames=2, size=32, licence="")
        with pytest.raises(ValueError, match=r"whole-mp4\.mp4"):
            source.make(0)
    for name, data in {"empty": b"", "ftyp": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "text": b"a video" * 99}.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
        source = VideoSource([Clip(name, 0.0, None, ())], tmp_path, seconds=3.0, frames=2, size=32, licence="")
        with pytest.raises(ValueError, match=rf"{name}\.mp4"):
            source.make(0)
    for wrong in ({"seconds": 1e12}, {"seconds": math.nan}, {"frames": 0}, {"frames": 10**9}, {"size": 10**6}):
        with pytest.raises(ValueError, match="are expected"):
            VideoSource([], tmp_path, **({"seconds": 3.0, "frames": 2, "size": 32, "licence": ""} | wrong))  # type: ignore[arg-type]


def test_frames_as_wide_as_a_line_are_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=1, width=4096, height=16, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 4096, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a\.mkv has frames of 4096 x 16 pixels"):
        read_frames(tmp_path / "a.mkv", [0.0], 256)


def test_damaged_videos_are_skipped_and_the_others_made(videos: Path, tmp_path: Path) -> None:
    """Bytes changed at random, seeded: some can be decoded, and none ends the run."""
    rng = np.random.default_rng(1)
    for name in ("whole-mp4.mp4", "more/-whole_webm.webm"):
        whole = (videos / name).read_bytes()
        for number in range(12):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 40):
                data[at] = int(rng.integers(256))
            (tmp_path / f"{number}-{Path(name).name}").write_bytes(bytes(data))
    clips = [Clip(file.stem, 1.0, None, ("x",)) for file in sorted(tmp_path.iterdir())]
    (tmp_path / "fine.mp4").write_bytes((videos / "whole-mp4.mp4").read_bytes())
    source = VideoSource(
        [*clips, Clip("fine", 1.0, None, ("x",))], tmp_path, seconds=2.0, frames=2, size=32, licence=""
    )
    index = make_shards(source, tmp_path / "out", shard_size=100)
    assert index.samples + len(index.skipped) == 25
    assert index.samples >= 1
    shards = Shards(tmp_path / "out", ("id",))
    assert shards[len(shards) - 1]["id"] == "fine_1"


def test_turned_pictures_are_upright(tmp_path: Path) -> None:
    from training.data.videos import _upright

    class Turned:
        rotation = 90

        def to_image(self) -> Image.Image:
            pixels = np.zeros((20, 40, 3), np.uint8)
            pixels[:, 20:] = 255  # the right half is white; turned left by a quarter it is the upper one
            return Image.fromarray(pixels)

    picture = _upright(Turned(), 20)  # type: ignore[arg-type]
    assert picture.shape == (40, 20, 3)
    assert picture[:18].min() > 240
    assert picture[-18:].max() < 15


def test_audiocaps_becomes_shards(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    index = make_shards(video_source(audiocaps, videos), tmp_path, shard_size=4)
    shards = Shards(tmp_path, ("id", "captions", "licence", "source", "seconds", "waveform", "pictures"))
    assert [shards[i]["id"] for i in range(len(shards))] == ["whole-mp4_2", "-whole_webm_1", "cut_2"]
    assert shards[0]["captions"] == ["a tone, then a higher one", "three tones"]
    assert shards[0]["source"] == "https://youtu.be/whole-mp4?t=2"
    assert index.licences == {"CC-BY": 3}
    for number, first in enumerate((2, 1, 0)):
        sample = shards[number]
        assert sample["seconds"] == 3.0
        assert sample["pictures"].shape == (3, 32, 43, 3)
        for second in range(3):
            piece = sample["waveform"][second * 16_000 + 1600 : (second + 1) * 16_000 - 1600].numpy()
            assert tone_of(piece) == pytest.approx(TONES[first + second], abs=2)
            colour = sample["pictures"][second].float().mean(dim=(0, 1))
            np.testing.assert_allclose(colour, COLOURS[first + second], atol=14)
    reasons = {skipped.id: skipped.why for skipped in index.skipped}
    assert reasons.keys() == {"missing_0", "broken_0", "mute_0", "blind_0", "silent_0", "half_0", "whole-mp4_5"}
    for name, words in {
        "missing_0": "no video missing",
        "broken_0": "cannot be decoded",
        "mute_0": "has no sound",
        "blind_0": "has no pictures",
        "silent_0": "is silent",
        "half_0": "cannot be decoded",
        "whole-mp4_5": "of sound from 5 s on, but 3 s are expected",
    }.items():
        assert words in reasons[name]


def test_audioset_has_names_and_numbers_of_classes(videos: Path, tmp_path: Path) -> None:
    segments, classes = tmp_path / "segments.csv", tmp_path / "class_labels_indices.csv"
    segments.write_text(
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        'whole-mp4, 1.000, 3.000, "/m/1,/m/07"\n-whole_webm, 0.000, 10.000, "/m/07"\n'
    )
    classes.write_text('index,mid,display_name\n0,/m/1,"Female speech, woman speaking"\n72,/m/07,Dog\n')
    out = tmp_path / "out"
    command = ["videos", "--csv", str(segments), "--classes", str(classes), "--videos", str(videos), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--seconds", "4", "--frames", "1", "--size", "32", "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "2 samples in 1 shards" in result.output
    shards = Shards(out, ("captions", "labels", "waveform"))
    assert [shards[i]["captions"] for i in (0, 1)] == [["Female speech, woman speaking, Dog"], ["Dog"]]
    assert [shards[i]["labels"] for i in (0, 1)] == [[0, 72], [72]]
    assert [len(shards[i]["waveform"]) for i in (0, 1)] == [32_000, 64_000]  # a row ends where it says


def test_lists_of_another_form_are_refused(tmp_path: Path) -> None:
    file, classes = tmp_path / "list.csv", tmp_path / "classes.csv"
    classes.write_text("index,mid,display_name\n0,/m/1,Dog\n")
    for text, words in {
        "a,b,c\n1,2,3\n": "has the columns a, b, c, but youtube_id, start_time, caption",
        "audiocap_id,youtube_id,start_time,caption\n1,x,soon,a dog\n": "line 2: .* is no row of AudioCaps",
        "audiocap_id,youtube_id,start_time,caption\n1,x\n": "line 2: .* is no row of AudioCaps",
        '# YTID\nx, 0, 10, "/m/2"\n': r"line 2: the class '/m/2' is not in the list",
        '# YTID\nx, 10, 0, "/m/1"\n': "line 2: .* are expected",
        "# YTID\nx, 0\n": "line 2: .* are expected",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_clips(file, classes=classes)
    with pytest.raises(ValueError, match=r"give --classes class_labels_indices\.csv"):
        read_clips(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_clips(tmp_path / "none.csv")


def test_cut_clips_are_found_under_every_usual_name(tmp_path: Path, audiocaps: Path) -> None:
    for name in ("a_30.mp4", "b_30.000.webm", "c_30000.mp4", "d_000030.mkv", "e.MP4"):
        (tmp_path / name).touch()
    file = tmp_path / "list.csv"
    file.write_text("youtube_id,start_time,caption\n" + "".join(f"{v},30,x\n" for v in "abcde"))
    source = video_source(file, tmp_path)
    found = [source._find(clip) for clip in source.clips]
    assert [path.name[0] for path, _ in found] == list("abcde")
    assert [start for _, start in found] == [0, 0, 0, 0, 30]


def test_processes_change_nothing(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_shards(video_source(audiocaps, videos), tmp_path / "one", shard_size=3)
    make_shards(
        video_source(audiocaps, videos),
        tmp_path / "two",
        shard_size=3,
        workers=2,
        on_progress=lambda *n: seen.append(n),
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert seen == sorted(seen)
    assert seen[-1] == (10, 7)


def test_processes_have_one_thread_each(
    audiocaps: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what a process would begin with
    context = multiprocessing.get_context("spawn")
    sources = context.Queue()
    sources.put(pickle.dumps(video_source(audiocaps, videos)))
    given = (sources, tmp_path, 3, context.Array("q", 2), context.Event())
    with ProcessPoolExecutor(1, mp_context=context, initializer=making._start_process, initargs=given) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


UNGUARDED = """
from pathlib import Path
from training.data.shard_writer import Source, make_shards

class Heavy(Source):
    def __len__(self): return 4
    def settings(self): return {}
    def name(self, position): return str(position)
    def make(self, position): raise ValueError("never asked")

source = Heavy()
source.heavy = bytes(1_000_000)  # more than a pipe holds
make_shards(source, Path("out"), shard_size=1, workers=2)
"""


def test_a_script_without_a_guard_does_not_wait_for_ever(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # every process that begins would run it whole again, and dies instead
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "ChildProcessError: A process that makes shards died" in ended.stderr


def test_a_source_that_cannot_be_sent_says_so(tmp_path: Path) -> None:
    source = Long()
    source.settings = lambda: {}  # type: ignore[method-assign]
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        make_shards(source, tmp_path, shard_size=1, workers=2)


class Stopping(VideoSource):
    """Is interrupted at sample 5."""

    def make(self, position: int) -> Sample:
        if position == 5:
            raise KeyboardInterrupt
        return super().make(position)


def test_an_interrupted_run_goes_on_to_the_same_bytes(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_shards(video_source(audiocaps, videos), whole, shard_size=2)
    stopping = Stopping(read_clips(audiocaps), videos, seconds=3.0, frames=3, size=32, licence="CC-BY")
    with pytest.raises(KeyboardInterrupt):
        make_shards(stopping, broken, shard_size=2)
    left = {file.name for file in broken.iterdir()}
    assert {"shard-000000.tar", "shard-000000.json", "shard-000001.tar"} <= left
    assert not any(name.startswith(("shard-000002", ".")) for name in left)
    with pytest.raises(ValueError, match=r"shards\.json is missing"):
        Shards(broken, ("id",))
    made = (broken / "shard-000000.tar").stat().st_mtime_ns
    (broken / "shard-000001.tar").write_bytes(b"half of it")  # a shard that does not fit its record is made again
    (broken / ".shard-000002.tar.abc.tar").write_bytes(b"of a killed process")
    with pytest.raises(ValueError, match=r"was made with size 32, but 48 came; give another --out"):
        make_shards(video_source(audiocaps, videos, size=48), broken, shard_size=2)
    make_shards(video_source(audiocaps, videos), broken, shard_size=2)
    assert (broken / "shard-000000.tar").stat().st_mtime_ns == made
    assert content(broken) == content(whole)


def test_a_finished_folder_is_only_read(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    source = video_source(audiocaps, videos)
    index = make_shards(source, tmp_path, shard_size=5)
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = make_shards(
        Stopping(source.clips, videos, seconds=3.0, frames=3, size=32, licence="CC-BY"), tmp_path, shard_size=5
    )
    assert again == index
    assert times == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="was made with shard_size 5, but 6 came"):
        make_shards(source, tmp_path, shard_size=6)
    source.clips = source.clips[:-1]
    with pytest.raises(ValueError, match="was made with inputs"):
        make_shards(source, tmp_path, shard_size=5)


def test_nothing_usable_says_why_and_leaves_nothing(tmp_path: Path, audiocaps: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"None of 10 samples .* \(whole-mp4_2\) because: There is no video"):
        make_shards(video_source(audiocaps, tmp_path / "videos"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def wait_for(condition: Any, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_stops_all_processes_and_keeps_what_is_finished(videos: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "list.csv", tmp_path / "out"
    rows = "".join(f"whole-mp4,{i / 100},number {i}\n" for i in range(200))
    file.write_text("youtube_id,start_time,caption\n" + rows)
    command = [sys.executable, "-m", "training.data.prepare", "videos", "--csv", str(file), "--videos", str(videos)]
    command += ["--out", str(out), "--seconds", "3", "--size", "64", "--frames", "8", "--workers", "2"]
    command += ["--shard-size", "10"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c
    )
    wait_for(lambda: process.poll() is not None or (out / "shard-000000.json").is_file())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = process.communicate(timeout=600)  # ends when all processes that could write errors have
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    names = {path.name for path in out.iterdir()}
    assert not any(name.startswith(".") for name in names)
    finished = [name for name in names if name.endswith(".tar")]
    assert 1 <= len(finished) < 20
    assert {name.replace(".tar", ".json") for name in finished} <= names


class Long(Source):
    """Sample `i` is `i + 1` seconds of noise."""

    def __len__(self) -> int:
        return 4

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return str(position)

    def make(self, position: int) -> Sample:
        noise = np.random.default_rng(position).uniform(-1, 1, 16_000 * (position + 1))
        return Sample(str(position), (), "CC0", "noise", position + 1.0, waveform=noise)


def test_a_full_disk_is_named_and_finished_shards_stay(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))  # the kernel refuses to write more to a file
    try:
        with pytest.raises(OSError, match=r"shard-000002\.tar cannot be written \(File too large\); free some space"):
            make_shards(Long(), tmp_path, shard_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.glob("*.tar")} == {"shard-000000.tar", "shard-000001.tar"}
    assert not list(tmp_path.glob(".*"))
    assert make_shards(Long(), tmp_path, shard_size=1).samples == 4


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard size 0 and 0 workers"):
        make_shards(Long(), tmp_path, shard_size=0)


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """Two good pairs, one of them in a subfolder, and bad ones."""
    folder = tmp_path / "pairs"
    (folder / "zoo").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tone = torch.sin(2 * math.pi * 440 * torch.arange(3 * 22_050) / 22_050)
    for stem in ("dog", "zoo/lion", "quiet"):
        pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
        write_audio(folder / f"{stem}.wav", tone * (stem != "quiet"), 22_050)
    mask = np.zeros((60, 90), np.uint8)
    mask[:30, :45] = 255
    Image.fromarray(mask).save(folder / "zoo" / "lion_mask_1.png")
    Image.fromarray(mask.T.copy()).resize((90, 60)).save(folder / "zoo" / "lion_mask_2.png")
    (folder / "zoo" / "lion.txt").write_text("a lion roars\n\nein Löwe brüllt\n", encoding="utf-8")
    (folder / "zoo" / "licence.txt").write_text("CC-BY 4.0\n")
    Image.new("RGB", (8, 8)).save(folder / "alone.jpg")
    (folder / "unreadable.jpg").write_bytes(b"no picture")
    write_audio(folder / "unreadable.wav", tone, 22_050)
    (folder / "notes.md").write_text("not of a pair")
    return folder


def test_pairs_become_shards(pair_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["pairs", str(pair_folder), "--out", str(out), "--size", "32", "--seconds", "0.4", "--licence", "CC0"]
    result = CliRunner().invoke(app, [*command, "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "2 samples in 1 shards" in result.output
    fields = ("id", "captions", "licence", "seconds", "waveform", "pictures")
    dog, lion = list(Shards(out, fields, optional=("masks", "sounding")))
    assert (dog["id"], dog["captions"], dog["licence"]) == ("dog", [], "CC0")
    assert "masks" not in dog
    assert (lion["id"], lion["licence"]) == ("zoo/lion", "CC-BY 4.0")
    assert lion["captions"] == ["a lion roars", "ein Löwe brüllt"]
    assert lion["seconds"] == pytest.approx(6 * 0.4)
    assert tone_of(lion["waveform"].numpy()) == pytest.approx(440, abs=1)
    assert lion["pictures"].shape == (1, 32, 48, 3)
    assert lion["masks"].shape == (2, 32, 48)
    assert lion["sounding"] == [0, 1]
    assert lion["masks"][0, :15, :23].min() > 240
    assert lion["masks"][0, 17:].max() < 15
    reasons = {skipped.id: skipped.why for skipped in ShardIndex.read(out).skipped}
    assert reasons.keys() == {"alone", "quiet", "unreadable"}
    assert "alone has a picture but no sound" in reasons["alone"]
    assert "cannot be read as a picture" in reasons["unreadable"]


def test_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no pictures or sounds"):
        PairSource(tmp_path, seconds=10, size=64, licence="")
    result = CliRunner().invoke(app, ["pairs", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "is not a folder" in result.output


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three shapes with three tones, as `training.starter.stamps` writes it."""
    folder = tmp_path_factory.mktemp("stamps")
    rows = []
    for label, (name, tone) in enumerate({"disc": 220.0, "square": 660.0, "bar": 1760.0}.items()):
        cutout = np.full((40, 20 + 20 * label, 4), (200, 40, 40, 255), np.uint8)
        cutout[:5, :, 3] = 0
        Image.fromarray(cutout).save(folder / f"{name}.png")
        write_audio(folder / f"{name}.wav", torch.sin(2 * math.pi * tone * torch.arange(8000) / 16_000), 16_000)
        rows.append(
            {"name": name, "label": label, "caption": f"a {name}", "image": f"{name}.png", "mask": f"{name}.png"}
            | {"audio": f"{name}.wav", "seconds": 0.5, "source": f"test: {name}", "licence": "GPL-2.0-or-later"}
        )
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


def test_scenes_become_shards(stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ["stamps", "--data", str(stamps), "--out", str(out), "--scenes", "6", "--split", "held-out"]
    # Scenes of three objects at most, as there are no more; and backgrounds that need no other package.
    monkeypatch.setattr(scenes.np.random, "default_rng", _few(np.random.default_rng))
    monkeypatch.setattr(scenes, "background_photographs", lambda: [Image.new("RGB", (64, 64), (90, 90, 90))])
    result = CliRunner().invoke(app, [*command, "--seconds", "1", "--size", "64", "--workers", "0"])
    data = ObjectSet(stamps)
    expected = []
    for index in range(6):
        rng = scenes.scene_rng("held-out", index)
        scene = scenes.make_scene(data, rng, size=(64, 64))
        captions = [scenes.scene_caption(data, scene, rng) for _ in range(2)]
        expected.append((scene, captions, scenes.scene_sound(data, scene, 16_000, rng)))
    assert result.exit_code == 0, result.output
    shards = Shards(out, ("captions", "labels", "sounding", "seconds", "waveform", "pictures", "masks"))
    assert len(shards) == 6
    for number, (scene, captions, sound) in enumerate(expected):
        sample = shards[number]
        assert sample["captions"] == captions
        assert (tuple(sample["labels"]), tuple(sample["sounding"])) == (scene.labels, scene.sounding)
        assert np.array_equal(sample["masks"], scene.masks)
        torch.testing.assert_close(sample["waveform"], sound, atol=1 / 32768, rtol=0)
        Image.fromarray(scene.image).save(tmp_path / "scene.jpg", quality=95)
        assert np.array_equal(sample["pictures"], np.asarray(Image.open(tmp_path / "scene.jpg"))[None])
    assert ShardIndex.read(out).licences == {"GPL-2.0-or-later": 6}


def _few(make: Any) -> Any:
    """Generators that never draw four objects."""

    class Few:
        def __init__(self, seed: Any):
            self._rng = make(seed)

        def choice(self, values: Any, *args: Any, p: Any = None, **kwargs: Any) -> Any:
            if values == [1, 2, 3, 4]:
                values, p = [1, 2, 3], [0.4, 0.3, 0.3]
            return self._rng.choice(values, *args, p=p, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rng, name)

    return Few


def test_scenes_are_named_by_all_files_of_their_objects(stamps: Path, tmp_path: Path) -> None:
    def inputs(folder: Path) -> str:
        return str(SceneSource(folder, scenes=1, split="train", seconds=1, size=64, captions=1).settings()["inputs"])

    same, image, sound = (Path(shutil.copytree(stamps, tmp_path / name)) for name in ("same", "image", "sound"))
    Image.new("RGBA", (40, 20), (0, 0, 200, 255)).save(image / "disc.png")
    write_audio(sound / "bar.wav", torch.zeros(8000), 16_000)
    assert inputs(same) == inputs(stamps)
    assert len({inputs(folder) for folder in (stamps, image, sound)}) == 3


def test_scenes_need_stamps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is missing; make it with"):
        SceneSource(tmp_path, scenes=1, split="train", seconds=1, size=64, captions=1)


class Mixed(Source):
    """Raw samples of several sizes, lengths and numbers of frames and captions, with and without masks."""

    def __len__(self) -> int:
        return 7

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return f"mixed-{position}"

    def make(self, position: int) -> Sample:
        rng = np.random.default_rng(position)
        height, width = 40 + 10 * position, 70
        masked = position in (1, 4)
        return Sample(
            id=self.name(position),
            captions=tuple(f"sound {i} of {position}" for i in range(position % 3)),
            licence="CC0",
            source="the test",
            seconds=1.28,
            labels=(5, 6, 7) if masked else None,
            sounding=(0, 2) if position == 4 else None,
            waveform=rng.uniform(-0.2, 0.3, (20_480, 12_000, 30_000)[position % 3]),  # the model trains on 20480
            pictures=tuple(rng.integers(0, 256, (1 + position % 2, height, width, 3), dtype=np.uint8)),
            masks=tuple(rng.integers(0, 256, (3, height, width), dtype=np.uint8)) if masked else (),
        )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    make_shards(Mixed(), out, shard_size=3)
    return out


def test_features_are_what_the_model_makes(
    mixed: Path, tiny_model: SoundingModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    command = ["features", "--raw", str(mixed), "--model", str(tiny_checkpoint), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--batch", "3", "--shard-size", "4"])
    assert result.exit_code == 0, result.output
    fields = ("id", "captions", "patches", "queries", "mean", "std")
    found = Shards(out, fields, optional=("coverage", "backdrop", "labels", "sounding"))
    raw = Shards(mixed, ("id", "captions", "waveform", "pictures"), optional=("masks", "sounding"))
    assert found.index.model == features.fingerprint(tiny_model)
    assert found.index.kind == "features"
    assert [shard.samples for shard in found.index.shards] == [4, 3]
    close = {"atol": 2e-3, "rtol": 2e-3}
    for sample, given in zip(found, raw, strict=True):
        assert sample["id"] == given["id"]
        picture = given["pictures"] / 255
        torch.testing.assert_close(sample["patches"].float(), tiny_model.see(picture), **close)
        sound = given["waveform"][:20_480]
        sound = sound - sound.mean()
        padded = torch.nn.functional.pad(0.5 * sound / sound.abs().max(), (0, 20_480 - len(sound)))
        if len(sound) == 20_480:
            latents = tiny_model.encode(given["waveform"][None, :20_480])[0]
            torch.testing.assert_close(sample["mean"].float(), latents, **close)
        mean, std = _posterior(tiny_model, padded)
        torch.testing.assert_close(sample["mean"].float(), mean, **close)
        torch.testing.assert_close(sample["std"].float(), std, **close)
        assert sample["queries"].shape == (len(given["captions"]), 16)
        if given["captions"]:
            expected = tiny_model.query.encode(given["captions"])
            torch.testing.assert_close(sample["queries"].float(), expected, **close)
        assert ("coverage" in sample) == ("masks" in given)
        if "masks" in given:
            union = np.max([given["masks"][i].numpy() for i in given.get("sounding", [0, 1, 2])], axis=0)
            grid = mask_to_grid(torch.from_numpy(union)[None] / 255, union.shape, tiny_model.config.patches)[0]
            torch.testing.assert_close(sample["coverage"].float(), grid, atol=1e-3, rtol=1e-3)
            free = 1 - torch.from_numpy(np.max(given["masks"].numpy(), axis=0))[None] / 255
            grid = mask_to_grid(free, union.shape, tiny_model.config.patches)[0]
            torch.testing.assert_close(sample["backdrop"].float(), grid, atol=1e-3, rtol=1e-3)
            assert sample["labels"] == [5, 6, 7]


def _posterior(model: SoundingModel, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation computed another way: the mel spectrogram is librosa's."""
    import librosa

    padded = np.pad(waveform.numpy(), 432, mode="reflect")
    spectrum = np.abs(librosa.stft(padded, n_fft=1024, hop_length=160, center=False))
    filters = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    mel = torch.from_numpy(np.log(np.maximum(filters @ spectrum, 1e-5)).T)
    with torch.no_grad():
        found = model.vae.encode(mel[None, None].float()).latent_dist
    scale = model.config.vae.scale
    return found.mean[0] * scale, found.std[0] * scale


def test_damaged_raw_samples_are_skipped(mixed: Path, tiny_model: SoundingModel, tmp_path: Path) -> None:
    raw = shutil.copytree(mixed, tmp_path / "raw")
    tar = raw / "shard-000001.tar"
    data = tar.read_bytes()
    at = data.index(b"fLaC") + 60
    tar.write_bytes(data[:at] + bytes(400) + data[at + 400 :])
    index = make_shards(features.FeatureSource(raw, tiny_model, batch=2), tmp_path / "out", shard_size=100)
    assert index.samples == 6
    assert [skipped.id for skipped in index.skipped] == ["sample 3"]
    assert "is damaged" in index.skipped[0].why
    shards = Shards(tmp_path / "out", ("id",))
    assert [sample["id"] for sample in shards] == [f"mixed-{i}" for i in (0, 1, 2, 4, 5, 6)]


def test_features_of_another_model_or_kind_are_refused(
    mixed: Path, tiny_model: SoundingModel, tiny_config: Any, tmp_path: Path
) -> None:
    make_shards(features.FeatureSource(mixed, tiny_model), tmp_path)
    torch.manual_seed(1)
    other = SoundingModel(tiny_config)
    with pytest.raises(ValueError, match="was made with model"):
        make_shards(features.FeatureSource(mixed, other), tmp_path)
    with pytest.raises(ValueError, match="features shards, which have no 'waveform'"):
        features.FeatureSource(tmp_path, tiny_model)


def test_fingerprint_names_encoders_vae_and_scale(tiny_model: SoundingModel, tiny_config: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "half.safetensors", dtype=torch.float16)
    single, half = (
        SoundingModel.from_pretrained(tmp_path / "half.safetensors", dtype=kind)
        for kind in (torch.float32, torch.float16)
    )
    first = features.fingerprint(single)
    assert features.fingerprint(half) == first
    single.unet.conv_in.bias.data += 1
    assert features.fingerprint(single) == first
    for part in ("patches", "query", "vae"):
        weight = next(getattr(single, part).parameters())
        weight.data += 1e-3
        assert features.fingerprint(single) != first
        weight.data = SoundingModel.from_pretrained(tmp_path / "half.safetensors").require(part).data
        assert features.fingerprint(single) == first
    single.config = dataclasses.replace(tiny_config, vae=dataclasses.replace(tiny_config.vae, scale=0.5))
    assert features.fingerprint(single) != first


def test_features_of_another_length_are_refused_in_a_sentence(
    mixed: Path, tiny_model: SoundingModel, tiny_config: SoundingConfig, tmp_path: Path
) -> None:
    make_shards(features.FeatureSource(mixed, tiny_model), tmp_path / "new")
    longer = SoundingModel(dataclasses.replace(tiny_config, train_seconds=10.24))
    longer.load_state_dict(tiny_model.state_dict())
    assert features.fingerprint(longer) != features.fingerprint(tiny_model)
    said = r"made of sounds of 1\.28 s, but this run trains on 10\.24 s; prepare them again with --seconds 10\.24"
    with pytest.raises(ValueError, match=said):
        features.check_features(Shards(tmp_path / "new", ("id",)), longer)
    with pytest.raises(ValueError, match=r"was made with train_seconds 1\.28, but 10\.24 came"):
        make_shards(features.FeatureSource(mixed, longer), tmp_path / "new")
    # What an earlier version made is named by its weights alone, and goes on being used where the length fits.
    old = shutil.copytree(tmp_path / "new", tmp_path / "old")
    index = dataclasses.replace(ShardIndex.read(old), model=features.weights_fingerprint(tiny_model), bare=None)
    index.write(old)
    features.check_features(Shards(old, ("id",)), tiny_model)
    assert make_shards(features.FeatureSource(mixed, tiny_model), old).samples == 7
    with pytest.raises(ValueError, match=said):
        features.check_features(Shards(old, ("id",)), longer)
    for folder in (old, tmp_path / "new"):
        with pytest.raises(ValueError, match=r"3 samples .* neither a caption nor a mask \(the first is mixed-0\)"):
            features.check_conditions(Shards(folder, ("id",)), 0.0)


def test_what_grounding_is_asked_by_is_looked_for_before_training(
    mixed: Path, tiny_model: SoundingModel, tmp_path: Path
) -> None:
    class Captioned(Mixed):
        def make(self, position: int) -> Sample:
            return dataclasses.replace(super().make(position), captions=("a sound",))

    make_shards(Captioned(), tmp_path / "raw")
    out = tmp_path / "features"
    make_shards(features.FeatureSource(tmp_path / "raw", tiny_model), out)
    index = ShardIndex.read(out)
    assert (index.bare, index.masked) == ((), 2)
    GroundedItems(out, tiny_model, GroundedSettings())
    taught = dataclasses.replace(
        tiny_model.config, grounding=dataclasses.replace(tiny_model.config.grounding, mask_training=0.5)
    )
    masks = SoundingModel(taught)
    masks.load_state_dict(tiny_model.state_dict())
    with pytest.raises(
        ValueError, match=r"5 of 7 samples in .*features have no mask, .* with grounding\.mask_training 0\.5"
    ):
        GroundedItems(out, masks, GroundedSettings())


def test_raw_folders_combine_into_features(mixed: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(mixed, tmp_path / "raw" / name)
    command = ["features", "--model", str(tiny_checkpoint), "--device", "cpu", "--out", str(tmp_path / "features")]
    result = CliRunner().invoke(app, [*command, "--raw", str(tmp_path / "raw" / "*"), "--seconds", "0.64"])
    assert result.exit_code == 0, result.output
    assert "14 samples" in result.output
    assert "6 samples have neither a caption nor a mask" in result.output
    made = Shards(tmp_path / "features", ("id", "mean"))
    assert [made[i]["id"] for i in (0, 7)] == ["mixed-0", "mixed-0"]
    assert made[0]["mean"].shape == (8, 16, 16)


def test_one_sample_that_the_model_cannot_take_does_not_end_a_run(
    mixed: Path, tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = features.encode_batch

    def choosy(model: SoundingModel, samples: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        if any(sample["id"] == "mixed-4" for sample in samples):
            raise RuntimeError("not this one")
        return encode(model, samples)

    monkeypatch.setattr(features, "encode_batch", choosy)
    index = make_shards(features.FeatureSource(mixed, tiny_model, batch=3), tmp_path)
    assert index.samples == 6
    assert [(skip.id, skip.why) for skip in index.skipped] == [("mixed-4", "RuntimeError: not this one")]

    def full(model: SoundingModel, samples: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(features, "encode_batch", full)
    with pytest.raises(torch.OutOfMemoryError):
        make_shards(features.FeatureSource(mixed, tiny_model, batch=3), tmp_path / "other")


def test_a_model_that_is_asked_by_sound_gets_its_queries_from_sounds(tiny_config: SoundingConfig, mixed: Path) -> None:
    query = QueryConfig(tower="clap_audio", width=16, hidden=8, heads=1, depths=(1, 1, 1, 1), tokenizer="")
    model = SoundingModel(dataclasses.replace(tiny_config, query=query))
    rows = Shards(mixed, ("captions", "waveform", "pictures"))
    made = features.encode_batch(model, [rows[0], rows[1]])
    expected = model.query.encode(rows[1]["waveform"][None], 16_000)  # type: ignore[call-arg, arg-type]
    assert made[1]["queries"].shape == (1, 16)
    torch.testing.assert_close(made[1]["queries"], expected.half())
