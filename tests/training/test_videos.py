"""Clips of videos, read and made into shards: known colours, known tones."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.data.clip_lists import Clip, read_clips
from training.data.prepare import app
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.videos import VideoSource, read_frames, read_sound

from .video_material import COLOURS, TONES, tone_of, video_source


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
    shards = Shards(tmp_path, ("id", "captions", "licence", "source", "seconds", "waveform", "images"))
    assert [shards[i]["id"] for i in range(len(shards))] == ["whole-mp4_2", "-whole_webm_1", "cut_2"]
    assert shards[0]["captions"] == ["a tone, then a higher one", "three tones"]
    assert shards[0]["source"] == "https://youtu.be/whole-mp4?t=2"
    assert index.licences == {"CC-BY": 3}
    for number, first in enumerate((2, 1, 0)):
        sample = shards[number]
        assert sample["seconds"] == 3.0
        assert sample["images"].shape == (3, 32, 43, 3)
        for second in range(3):
            piece = sample["waveform"][second * 16_000 + 1600 : (second + 1) * 16_000 - 1600].numpy()
            assert tone_of(piece) == pytest.approx(TONES[first + second], abs=2)
            colour = sample["images"][second].float().mean(dim=(0, 1))
            np.testing.assert_allclose(colour, COLOURS[first + second], atol=14)
    reasons = {skipped.id: skipped.why for skipped in index.skipped}
    assert reasons.keys() == {"missing_0", "broken_0", "mute_0", "blind_0", "silent_0", "half_0", "whole-mp4_5"}
    for name, words in {
        "missing_0": "no video missing",
        "broken_0": "cannot be decoded",
        "mute_0": "has no sound",
        "blind_0": "has no images",
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
    found = [source.files.find(clip.video, clip.start) for clip in source.clips]
    assert [path.name[0] for path, _ in found] == list("abcde")
    assert [start for _, start in found] == [0, 0, 0, 0, 30]
