"""Videos of known colours and known tones, and a list of clips of them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import av
import numpy as np

from training.data.clip_lists import read_clips
from training.data.videos import VideoSource

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


ROWS = [
    ("whole-mp4", 2, "a tone, then a higher one"),
    ("missing", 0, "nothing"),
    ("-whole_webm", 1, "tones"),
    ("broken", 0, "noise"),
    ("whole-mp4", 2, "three tones"),
    ("cut", 2, "the rest"),
    ("mute", 0, "no sound"),
    ("blind", 0, "no images"),
    ("silent", 0, "silence"),
    ("half", 0, "cut off"),
    ("whole-mp4", 5, "too short"),
]


def video_source(audiocaps: Path, videos: Path, **changes: Any) -> VideoSource:
    settings: dict[str, Any] = {"seconds": 3.0, "frames": 3, "size": 32, "licence": "CC-BY"}
    return VideoSource(read_clips(audiocaps), videos, **(settings | changes))


def content(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def tone_of(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * 16_000 / len(waveform))
