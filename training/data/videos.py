"""Clips of videos: sound and frames by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sounding.images.opening import MAX_PIXELS

from .clip_lists import Clip
from .shard_format import SAMPLE_RATE, Sample, Skipped
from .source import Source, hash_json
from .storage import files_below, opened

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.video.frame import VideoFrame

    from .storage import Location

ENDINGS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".flv", ".m4v")
LEAST = 0.5  # share of the asked seconds that a clip needs to have
LONGEST = 3600.0  # s
MOST_ASPECT = 20  # of a frame's sides
SEEK_EARLY = 1.0  # seconds; decoders need some sound before the first that is right


class VideoSource(Source):
    """Clips of a list whose videos lie under `folder` as YTID.ext (whole) or YTID_START.ext (the clip alone).

    START is in seconds (30 or 000030) or milliseconds (30000). Sound is mono, images are evenly spaced frames
    whose shorter side is `size`. A clip that ends early is shorter, down to half of what was asked.
    """

    def __init__(
        self,
        clips: list[Clip],
        folder: Path,
        *,
        seconds: float,
        frames: int,
        size: int,
        licence: str,
        left_out: Sequence[Skipped] = (),
    ):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder, but one with videos is expected; check --videos.")
        if not 0.1 <= seconds <= LONGEST or not 1 <= frames <= 1000 or not 16 <= size <= 4096:
            raise ValueError(
                f"seconds {seconds}, frames {frames} and size {size} came, but 0.1 to {LONGEST}, 1 to 1000 and 16 to "
                "4096 are expected."
            )
        self.clips, self.folder, self.licence = clips, folder, licence
        self.seconds, self.frames, self.size, self.unused = seconds, frames, size, list(left_out)
        self.files = VideoFiles(folder)

    def __len__(self) -> int:
        return len(self.clips)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        rows = [(clip.video, clip.start, clip.seconds, clip.captions, clip.labels) for clip in self.clips]
        return {
            "from": "videos",
            "seconds": self.seconds,
            "frames": self.frames,
            "size": self.size,
            "licence": self.licence,
            "inputs": hash_json(rows),
        }

    def left_out(self) -> list[Skipped]:
        """See Source."""
        return self.unused

    def name(self, position: int) -> str:
        """See Source."""
        return self.clips[position].id

    def make(self, position: int) -> Sample:
        """See Source."""
        from av import FFmpegError

        clip = self.clips[position]
        file, start = self.files.find(clip.video, clip.start)
        seconds = min(self.seconds, clip.seconds or self.seconds)
        try:
            waveform = read_sound(file, start, seconds)
            length = len(waveform) / SAMPLE_RATE
            if length < LEAST * seconds:
                raise ValueError(
                    f"{file.name} has {length:.2f} s of sound from {start:g} s on, but {seconds:g} s are expected."
                )
            if np.abs(waveform).max() < 1 / 32768:
                raise ValueError(f"{file.name} is silent from {start:g} s to {start + length:g} s.")
            times = [start + (i + 0.5) * length / self.frames for i in range(self.frames)]
            pictures = read_frames(file, times, self.size)
        except (FFmpegError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{file.name} cannot be decoded ({error}).") from None
        return Sample(
            id=clip.id,
            captions=clip.captions,
            licence=self.licence,
            source=f"https://youtu.be/{clip.video}?t={clip.start:g}",
            seconds=round(length, 3),
            labels=clip.labels,
            waveform=waveform,
            images=tuple(pictures),
        )


class VideoFiles:
    """The videos in a folder, by what they are called: YTID.ext (whole) or YTID_START.ext (the clip alone).

    `listed` has all of them, with the size and version of those in object storage.
    """

    def __init__(self, folder: Location):
        self.folder = folder
        self.listed = files_below(folder, ENDINGS)
        self.files = {file.stem: file for file in reversed(self.listed)}

    def find(self, video: str, start: float) -> tuple[Location, float]:
        """The file that has the clip which begins at `start` seconds, and where in the file it begins.

        Raises:
            ValueError: there is none.
        """
        written = [f"{start:g}", f"{start:.3f}", f"{round(1000 * start)}"]
        if start == int(start):
            written.append(f"{int(start):06d}")
        for text in written:
            if file := self.files.get(f"{video}_{text}"):
                return file, 0.0
        if file := self.files.get(video):
            return file, start
        raise ValueError(f"There is no video {video} or {video}_{start:g} in {self.folder.name}.")


def read_sound(file: Location, start: float, seconds: float) -> np.ndarray:
    """[samples] float32 at 16 kHz, channels averaged: `seconds` from `start` on, or what there is of them.

    Raises:
        ValueError: no sound.
        av.FFmpegError: a broken file.
    """
    import av

    with opened(file) as source, av.open(source) as container:
        if not container.streams.audio:
            raise ValueError(f"{file.name} has no sound.")
        stream = container.streams.audio[0]
        origin = _origin(container)
        if start > SEEK_EARLY:
            container.seek(round((start + origin - SEEK_EARLY) * av.time_base), backward=True)
        resampler = form = None
        pieces: list[np.ndarray] = []
        first, samples = 0.0, 0
        for frame in container.decode(stream):
            begins = float(frame.time if frame.time is not None else 0.0) - origin
            # Times of broken files may stand still, so what there is counts as well.
            if begins >= start + seconds or samples > (start - first + seconds) * SAMPLE_RATE:
                break
            came = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or came != form:
                if resampler is None:
                    first = begins
                else:  # another rate or other channels from here on, as broadcasts have between programmes
                    pieces += _mono(resampler.resample(None))
                # Channels are averaged here, as for sound files; ffmpeg's own mix of float sound is 3 dB louder.
                resampler, form = av.AudioResampler("fltp", frame.layout, SAMPLE_RATE), came
            made = _mono(resampler.resample(frame))
            pieces += made
            samples += sum(len(piece) for piece in made)
        if resampler is not None:
            pieces += _mono(resampler.resample(None))
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    skip = round((start - first) * SAMPLE_RATE)
    sound = sound[skip:] if skip >= 0 else np.pad(sound, (min(-skip, round(seconds * SAMPLE_RATE)), 0))
    return sound[: round(seconds * SAMPLE_RATE)]


def _mono(frames: list[AudioFrame]) -> list[np.ndarray]:
    return [frame.to_ndarray().mean(axis=0, dtype=np.float32) for frame in frames]


def _origin(container: InputContainer) -> float:
    """Where the file's clock begins, in seconds: players show this moment as 0:00."""
    import av

    return (container.start_time or 0) / av.time_base


def read_frames(file: Location, times: list[float], size: int) -> list[np.ndarray]:
    """The frames [H, W, 3] uint8 that are shown at ascending `times`, upright, with a shorter side of `size`.

    A video that ends before its sound shows its last frame.

    Raises:
        ValueError: no images.
        av.FFmpegError: a broken file.
    """
    import av

    found: list[np.ndarray] = []
    with opened(file) as source, av.open(source) as container:
        if not container.streams.video:
            raise ValueError(f"{file.name} has no images.")
        stream = container.streams.video[0]
        _check_size(stream.codec_context.width, stream.codec_context.height, file)
        stream.codec_context.thread_count = 1  # as many processes as cores are at work already
        origin = _origin(container)
        if times[0] > SEEK_EARLY:
            container.seek(round((times[0] + origin) * av.time_base), backward=True)
        shown: VideoFrame | None = None
        for frame in container.decode(stream):
            begins = float(frame.time if frame.time is not None else 0.0) - origin
            while shown is not None and len(found) < len(times) and times[len(found)] < begins - 1e-6:
                found.append(_upright(shown, size))
            if len(found) == len(times):
                break
            shown = frame
        if shown is None:
            raise ValueError(f"{file.name} has no images from {times[0]:.2f} s on.")
        last = _upright(shown, size) if len(found) < len(times) else None
        while last is not None and len(found) < len(times):
            found.append(last)
    return found


def _check_size(width: int, height: int, file: Location) -> None:
    """Before a frame is decoded, or made as large as its longer side asks for."""
    if width * height > MAX_PIXELS or max(width, height) > MOST_ASPECT * max(1, min(width, height)):
        raise ValueError(
            f"{file.name} has frames of {width} x {height} pixels, but at most {MAX_PIXELS:,} in all, and sides up "
            f"to 1 to {MOST_ASPECT}, are expected; convert it."
        )


def _upright(frame: VideoFrame, size: int) -> np.ndarray:
    from PIL import Image

    picture = frame.to_image().rotate(frame.rotation, expand=True) if frame.rotation else frame.to_image()
    scale = size / min(picture.size)
    width, height = (max(size, round(scale * side)) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
