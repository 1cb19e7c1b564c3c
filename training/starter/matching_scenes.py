"""Clips for audio-visual matching: videos of the stamps (`data.video_scenes`), as samples or as small .mp4 files."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sounding.utils.files import write_atomic

from ..data.object_set import ObjectSet, content_digest
from ..data.shard_format import Sample
from ..data.source import Source
from ..data.video_scenes import VideoScene, VideoSplit, make_video_scene, track_sound, video_rng, write_video

SECONDS = 5.0  # of a clip


class VideoSceneSource(Source):
    """Clips of a split, each with one or several takes of its sound: clip `i` as samples `takes * i` and following.

    All takes have the same objects at the same times, but other cuts of their recordings, at other loudness.

    Args:
        data: folder of an `ObjectSet`.
        clips: how many.
        split: no two splits share a random stream.
        seconds: length of a clip.
        frames: of a clip, evenly spaced.
        size: side of the square frames, in pixels.
        takes: of the sound, per clip.

    Raises:
        ValueError: bad numbers, or a damaged data set.
        OSError: the data set cannot be read.
    """

    def __init__(
        self,
        data: Path,
        *,
        clips: int,
        split: VideoSplit,
        seconds: float = SECONDS,
        frames: int = 20,
        size: int = 224,
        takes: int = 1,
    ):
        if not 1 <= takes <= 1000:
            raise ValueError(f"takes is {takes}, but 1 to 1000 is expected.")
        if clips < 1 or not 1 <= seconds <= 60 or not 1 <= frames <= 1000 or not 32 <= size <= 1024:
            raise ValueError(
                f"clips {clips}, seconds {seconds}, frames {frames} and size {size} came, but 1 or more, 1 to 60, 1 to "
                "1000 and 32 to 1024 are expected."
            )
        self.data, self.clips, self.split = data, clips, split
        self.seconds, self.frames, self.size, self.takes = seconds, frames, size, takes
        self._drawn: tuple[int, VideoScene] | None = None
        self._inputs = content_digest(data)

    @cached_property
    def objects(self) -> ObjectSet:
        """The cut-outs and recordings, loaded when the first clip is made."""
        return ObjectSet(self.data)

    def __len__(self) -> int:
        return self.clips * self.takes

    def settings(self) -> dict[str, Any]:
        """See Source."""
        return {
            "from": "video scenes",
            "split": self.split,
            "clips": self.clips,
            "seconds": self.seconds,
            "frames": self.frames,
            "size": self.size,
            "takes": self.takes,
            "inputs": self._inputs,
        }

    def name(self, position: int) -> str:
        """See Source."""
        clip, take = divmod(position, self.takes)
        return f"{self.split}-{clip}" + (f"@{take}" if take else "")

    def scene(self, clip: int) -> VideoScene:
        """One clip with its first take; the last one drawn is kept for its other takes."""
        if self._drawn is None or self._drawn[0] != clip:
            rng = video_rng(self.split, clip)
            made = make_video_scene(self.objects, rng, seconds=self.seconds, frames=self.frames, size=self.size)
            self._drawn = clip, made
        return self._drawn[1]

    def make(self, position: int) -> Sample:
        """See Source."""
        clip, take = divmod(position, self.takes)
        scene, waveform = self.scene(clip), self.scene(clip).waveform
        if take:
            rng = video_rng(self.split, clip, take)
            waveform = track_sound(self.objects, scene.tracks, rng, self.seconds)
        entries = [self.objects.entries[track.label] for track in scene.tracks]
        named = [entry.caption for entry, track in zip(entries, scene.tracks, strict=True) if track.sounds]
        return Sample(
            id=self.name(position),
            captions=(" and ".join(named),),
            licence=" AND ".join(sorted({entry.licence for entry in entries})),
            source="; ".join(entry.source for entry in entries),
            seconds=self.seconds,
            labels=tuple(track.label for track in scene.tracks),
            sounding=tuple(number for number, track in enumerate(scene.tracks) if track.sounds),
            waveform=waveform.numpy(),
            images=tuple(scene.frames),
        )


def write_videos(source: VideoSceneSource, folder: Path) -> None:
    """Write the clips as NAME.mp4 with NAME.txt, their caption, into `folder`."""
    rate = Fraction(source.frames) / Fraction(source.seconds).limit_denominator(1000)
    for position in range(len(source)):
        clip = source.make(position)
        assert clip.waveform is not None
        write_video(folder / f"{clip.id}.mp4", np.stack(clip.images), rate, clip.waveform)
        write_atomic(folder / f"{clip.id}.txt", (clip.captions[0] + "\n").encode())
