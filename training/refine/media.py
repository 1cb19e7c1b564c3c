"""The clip of a row, decoded: by every step that needs it, since rows hold paths alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..cluster.rows import Row
from ..data.videos import read_frames, read_sound

T = TypeVar("T")


def clip_sound(row: Row) -> np.ndarray:
    """[samples] float32 at 16 kHz, `seconds` of the row or what there is of them.

    Raises:
        ValueError: no sound, or a file that cannot be decoded.
    """
    return _plainly(row, lambda: read_sound(Path(row["path"]), row["offset"], row["seconds"]))


def clip_frames(row: Row, per_second: float, size: int) -> list[np.ndarray]:
    """Evenly spaced frames [H, W, 3] uint8 with a shorter side of `size`, at least one.

    Raises:
        ValueError: no images, or a file that cannot be decoded.
    """
    times = frame_times(row, per_second)
    return _plainly(row, lambda: read_frames(Path(row["path"]), times, size))


def frame_times(row: Row, per_second: float) -> list[float]:
    """The middles of equal parts of the clip, in seconds of the file."""
    length = row.get("sound_seconds") or row["seconds"]
    count = max(1, round(length * per_second))
    return [row["offset"] + (number + 0.5) * length / count for number in range(count)]


def _plainly(row: Row, read: Callable[[], T]) -> T:
    from av import FFmpegError

    try:
        return read()
    except (FFmpegError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{Path(row['path']).name} cannot be decoded ({error}).") from None
