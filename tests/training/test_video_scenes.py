"""Videos of cut-outs: reproducible, and everything is heard exactly while it is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.object_set import ObjectSet
from training.data.video_scenes import Track, VideoScene, make_video_scene, position, video_rng
from training.data.videos import read_frames, read_sound
from training.matching.tokens import same_frames, video_of
from training.starter.matching_scenes import VideoSceneSource, write_videos


def scene(data: ObjectSet, index: int, split: str = "train", seconds: float = 2.0, frames: int = 8) -> VideoScene:
    return make_video_scene(data, video_rng(split, index), seconds=seconds, frames=frames, size=48)


@pytest.fixture(scope="module")
def scenes(stamps_data: ObjectSet) -> list[VideoScene]:
    return [scene(stamps_data, index) for index in range(24)]


def test_a_clip_follows_from_its_split_and_number(stamps_data: ObjectSet, scenes: list[VideoScene]) -> None:
    again = scene(stamps_data, 3)
    assert np.array_equal(again.frames, scenes[3].frames)
    assert torch.equal(again.waveform, scenes[3].waveform)
    assert again.frames.shape == (8, 48, 48, 3)
    assert again.waveform.shape == (32_000,)
    others = [scene(stamps_data, 3, split) for split in ("development", "test")]
    assert not any(np.array_equal(other.frames, again.frames) for other in others)


def test_some_object_sounds_most_of_the_time(scenes: list[VideoScene]) -> None:
    for made in scenes:
        times = np.arange(0, 2, 0.01)
        heard = np.zeros(len(times), bool)
        for track in made.tracks:
            if track.sounds:
                heard |= (times >= track.enters) & (times <= track.leaves)
        assert heard.mean() > 0.79
    assert any(not track.sounds for made in scenes for track in made.tracks)
    assert any(track.enters > 0 for made in scenes for track in made.tracks)
    assert any(track.leaves < 2 for made in scenes for track in made.tracks)


def test_nothing_is_heard_while_nothing_that_sounds_is_there(scenes: list[VideoScene]) -> None:
    checked = 0
    times = (np.arange(32_000) + 0.5) / 16_000
    for made in scenes:
        away = np.ones(len(times), bool)
        for track in made.tracks:
            if track.sounds:
                away &= (times < track.enters) | (times > track.leaves)
        if away.any() and not away.all():
            silence = made.waveform.numpy()[away]
            # The mix has its mean removed, so silence is a constant.
            assert np.ptp(silence) < 1e-4
            assert made.waveform.abs().max() == pytest.approx(0.5, abs=0.02)
            checked += 1
    assert checked


def test_frames_without_a_change_are_equal(scenes: list[VideoScene]) -> None:
    """Exposure and grain stay: frames in which no object is there show the same background."""
    for made in scenes:
        times = (np.arange(8) + 0.5) * 2 / 8
        empty = [i for i, time in enumerate(times) if all(not t.enters <= time <= t.leaves for t in made.tracks)]
        assert all(np.array_equal(made.frames[empty[0]], made.frames[i]) for i in empty)


def test_objects_slide_in_and_out() -> None:
    track = Track(0, True, 1.0, 4.0, (10, 20), (30, 20), (-1, 0))
    places = [position(track, time, 5.0, 100, (40, 30)) for time in (0.9, 1.0, 1.25, 1.5, 3.5, 4.0, 4.1)]
    assert places == [None, (-40, 20), (-12, 20), (16, 20), (24, 20), (-40, 20), None]
    whole = Track(0, True, 0.0, 5.0, (10, 20), (30, 40), (0, 1))
    assert [position(whole, time, 5.0, 100, (40, 30)) for time in (0.0, 2.5, 5.0)] == [(10, 20), (20, 30), (30, 40)]


def test_the_source_describes_what_sounds(stamps_folder: Path) -> None:
    source = VideoSceneSource(stamps_folder, clips=3, split="test", seconds=2.0, frames=4, size=48)
    clip = source.make(1)
    assert clip.id == "test-1"
    assert clip.seconds == 2.0
    assert len(clip.images) == 4
    names = [source.objects.entries[label].caption for label in clip.labels or ()]
    assert clip.captions == (" and ".join(names[i] for i in clip.sounding or ()),)
    with pytest.raises(ValueError, match="clips 0"):
        VideoSceneSource(stamps_folder, clips=0, split="test")


def test_takes_have_the_same_frames_and_other_sounds(stamps_folder: Path) -> None:
    source = VideoSceneSource(stamps_folder, clips=2, split="train", seconds=2.0, frames=4, size=48, takes=3)
    plain = VideoSceneSource(stamps_folder, clips=2, split="train", seconds=2.0, frames=4, size=48)
    takes = [source.make(position) for position in range(3, 6)]
    assert [take.id for take in takes] == ["train-1", "train-1@1", "train-1@2"]
    assert {video_of(take.id) for take in takes} == {"train-1"}
    assert np.array_equal(takes[0].waveform, plain.make(1).waveform)
    assert all(same_frames(take.images, takes[0].images) for take in takes)
    assert not np.array_equal(takes[1].waveform, takes[2].waveform)
    assert video_of("dQw4-w9_xc_30") == "dQw4-w9_xc"


def test_videos_hold_the_frames_and_the_sound(stamps_folder: Path, tmp_path: Path) -> None:
    source = VideoSceneSource(stamps_folder, clips=1, split="development", seconds=2.0, frames=8, size=64)
    write_videos(source, tmp_path)
    clip, file = source.make(0), tmp_path / "development-0.mp4"
    frames = read_frames(file, [(i + 0.5) / 4 for i in range(8)], 64)
    difference = np.abs(np.stack(frames).astype(float) - np.stack(clip.images)).mean()
    assert difference < 12  # of 255; lossy
    sound = read_sound(file, 0, 2.0)
    assert clip.waveform is not None
    assert np.corrcoef(sound[:30_000], clip.waveform[:30_000])[0, 1] > 0.9
    assert (tmp_path / "development-0.txt").read_text() == clip.captions[0] + "\n"
