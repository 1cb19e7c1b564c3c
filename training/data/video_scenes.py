"""Short videos of cut-outs that move, enter and leave, each heard exactly while it can be seen.

A clip follows from (split, index) alone. The splits never share a random stream; they do share objects, since
every object has a single image and a single recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sounding.utils.files import replacing

from .object_set import ObjectSet
from .scenes import background, lit, placed
from .shard_format import SAMPLE_RATE
from .waveforms import fill, mix

VideoSplit = Literal["train", "development", "test", "collection"]
VIDEO_SEEDS: dict[VideoSplit, int] = {"train": 31, "development": 32, "test": 33, "collection": 34}
SLIDE = 0.5  # s that an object takes to come into the frame or to leave it
FADE = 0.05  # s in which its sound begins and ends
LEAST_SHOWN = 0.3  # share of a clip that an object is in it at least
LEAST_HEARD = 0.8  # share of a clip in which at least one object sounds


@dataclass(frozen=True)
class Track:
    """One object of a clip; times in seconds, positions in pixels of the corner from the top left."""

    label: int
    sounds: bool
    enters: float  # 0: it is there from the beginning
    leaves: float  # the clip's length: it stays until the end
    start: tuple[int, int]
    end: tuple[int, int]
    side: tuple[int, int]  # where it comes from and leaves to: (-1, 0) left, (1, 0) right, (0, -1) top, (0, 1) bottom


@dataclass(frozen=True)
class VideoScene:
    """A clip: frames [F, H, W, 3] uint8, number `i` at (i + 0.5) / F of its length; the mix [samples]; its objects."""

    frames: np.ndarray
    waveform: Tensor
    tracks: tuple[Track, ...]


def video_rng(split: VideoSplit, index: int, *more: int) -> np.random.Generator:
    """The random stream of one clip; with further numbers, streams beside it."""
    return np.random.default_rng([VIDEO_SEEDS[split], index, *more])


def make_video_scene(
    data: ObjectSet, rng: np.random.Generator, *, seconds: float, frames: int, size: int
) -> VideoScene:
    """Draw a clip with square frames of side `size`: one to four objects, some of them sounding."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15]))
    labels = [int(label) for label in rng.choice(len(data), min(count, len(data)), replace=False)]
    backdrop = background(rng, (size, size)).convert("RGB")
    cutouts, tracks = [], []
    times = _presences(rng, len(labels), seconds)
    for label, (sounds, enters, leaves) in zip(labels, times, strict=True):
        cutout, start = placed(data.cutouts[label], rng, (size, size), len(labels), 0)
        drift = rng.uniform(-0.3, 0.3, 2) * size
        end = tuple(
            int(np.clip(at + by, min(0, size - extent), max(0, size - extent)))
            for at, by, extent in zip(start, drift, cutout.size, strict=True)
        )
        side = ((-1, 0), (1, 0), (0, -1), (0, 1))[int(rng.integers(4))]
        cutouts.append(cutout)
        tracks.append(Track(label, sounds, enters, leaves, start, (end[0], end[1]), side))
    light = int(rng.integers(2**31))  # the same exposure, tint, blur and grain for all frames
    pictures = []
    for number in range(frames):
        canvas = backdrop.copy()
        for cutout, track in zip(cutouts, tracks, strict=True):
            _paste(canvas, cutout, track, (number + 0.5) * seconds / frames, seconds)
        pictures.append(lit(canvas, np.random.default_rng(light)))
    return VideoScene(np.stack(pictures), track_sound(data, tracks, rng, seconds), tuple(tracks))


def _presences(rng: np.random.Generator, count: int, seconds: float) -> list[tuple[bool, float, float]]:
    """Of each object whether it sounds, and when it enters and leaves; little of the clip is without any sound."""
    for _ in range(20):
        sounding = set(rng.permutation(count)[: int(rng.integers(1, count + 1))].tolist())
        found = []
        for number in range(count):
            enters, leaves = 0.0, seconds
            if rng.random() < 0.5:
                shown = rng.uniform(LEAST_SHOWN, 0.9) * seconds
                enters = float(rng.choice([0.0, seconds - shown, rng.uniform(0, seconds - shown)]))
                leaves = min(seconds, enters + shown)
            found.append((number in sounding, enters, leaves))
        if _heard([(enters, leaves) for sounds, enters, leaves in found if sounds]) >= LEAST_HEARD * seconds:
            return found
    return [(sounds, 0.0, seconds) for sounds, _, _ in found]


def _heard(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, last = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def position(track: Track, time: float, seconds: float, size: int, extent: tuple[int, int]) -> tuple[int, int] | None:
    """The corner of an object of `extent` (width, height) at `time` in a frame of side `size`; None: it is away."""
    if not track.enters <= time <= track.leaves:
        return None
    away = 0.0  # share of the way out of the frame
    if track.enters > 0:
        away = max(away, 1 - (time - track.enters) / SLIDE)
    if track.leaves < seconds:
        away = max(away, 1 - (track.leaves - time) / SLIDE)
    share = time / seconds
    corner = [start + (end - start) * share for start, end in zip(track.start, track.end, strict=True)]
    for axis, direction in enumerate(track.side):
        outside = size if direction > 0 else -extent[axis]
        corner[axis] += abs(direction) * away * (outside - corner[axis])
    return round(corner[0]), round(corner[1])


def _paste(canvas: Image.Image, cutout: Image.Image, track: Track, time: float, seconds: float) -> None:
    corner = position(track, time, seconds, canvas.width, cutout.size)
    if corner is not None:
        canvas.paste(cutout.convert("RGB"), corner, cutout.getchannel("A"))


def track_sound(data: ObjectSet, tracks: Sequence[Track], rng: np.random.Generator, seconds: float) -> Tensor:
    """[samples]: what sounds, each object from when it enters until it leaves."""
    samples = round(seconds * SAMPLE_RATE)
    times = torch.arange(samples) / SAMPLE_RATE
    clips, gains = [], []
    for track in tracks:
        if track.sounds:
            rise = (times - track.enters) / FADE + (track.enters <= 0)
            fall = (track.leaves - times) / FADE + (track.leaves >= seconds)
            shown = torch.minimum(rise, fall).clamp(0, 1)
            clips.append(fill(data.recordings[track.label], samples, rng) * shown)
            gains.append(float(rng.uniform(-6, 6)))
    return mix(clips, gains)


def write_video(path: Path, frames: np.ndarray, rate: Fraction | int, waveform: np.ndarray) -> None:
    """Write frames [F, H, W, 3] uint8, `rate` per second, and a waveform [samples] at 16 kHz as .mp4 (MPEG-4, AAC)."""
    import av

    rate = Fraction(rate)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        audio = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        audio.sample_rate, audio.pts, audio.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(sound.encode(audio))
        container.mux(sound.encode(None))
