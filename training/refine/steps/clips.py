"""Which clips are whole: sound that can be heard, images, and enough of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ...cluster.rows import Column, Row
from ...data.shard_format import SAMPLE_RATE
from ..media import clip_frames, clip_sound
from ..settings import ClipSettings
from ..step import Step

SIZE = 64  # shorter side of the frames that are only looked for
QUIETEST = -120.0  # dB


class ClipStep(Step):
    """Decodes the sound, and a few frames over the whole length."""

    name = "clips"
    columns: ClassVar[dict[str, Column]] = {
        "sound_seconds": Column("number", "seconds of sound that are there"),
        "peak": Column("number", "largest absolute value of the waveform, 1 at full scale"),
        "level": Column("number", "root mean square of the waveform in dB, 0 at full scale"),
    }

    def __init__(self, settings: ClipSettings):
        super().__init__(settings.resources)
        self.least, self.least_peak = settings.least, settings.least_peak

    def settings(self) -> dict[str, Any]:
        """See Step: nothing but the code decides what is measured."""
        return {}

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        return [_look(row) for row in rows]

    def verdict(self, row: Row) -> str:
        """See Step."""
        if row["sound_seconds"] < self.least * row["seconds"]:
            return f"It has less than {self.least * row['seconds']:g} s of sound."
        return "It is silent." if row["peak"] < self.least_peak else ""


def _look(row: Row) -> Row:
    sound = clip_sound(row)
    if not len(sound):
        raise ValueError("It has no sound in that time.")
    found = {
        "sound_seconds": len(sound) / SAMPLE_RATE,
        "peak": float(np.abs(sound).max()),
        "level": max(QUIETEST, 10 * float(np.log10(max(float(np.square(sound, dtype=np.float64).mean()), 1e-12)))),
    }
    clip_frames({**row, **found}, 3 / row["seconds"], SIZE)
    return found
