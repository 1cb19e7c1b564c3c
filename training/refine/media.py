"""The clip of a row, decoded: by every step that needs it, since rows hold paths alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..cluster.rows import Row
from ..cluster.stage import StopRun
from ..data.storage import StorageError, location, retried
from ..data.videos import read_frames, read_sound

if TYPE_CHECKING:
    from ..data.storage import Location

T = TypeVar("T")
DOWN = 16  # clips in a row that the store gave nothing of: it is down, and the run would drop all of them
_lost = 0  # of them, in this process


def clip_sound(row: Row) -> np.ndarray:
    """[samples] float32 at 16 kHz, `seconds` of the row or what there is of them.

    Raises:
        ValueError: no sound, or a file that cannot be decoded.
        StorageError, StopRun: object storage that cannot be reached, for this clip or for many in a row.
    """
    return _plainly(row, lambda file: read_sound(file, row["offset"], row["seconds"]))


def clip_frames(row: Row, per_second: float, size: int) -> list[np.ndarray]:
    """Evenly spaced frames [H, W, 3] uint8 with a shorter side of `size`, at least one.

    Raises:
        ValueError: no images, or a file that cannot be decoded.
        StorageError, StopRun: see `clip_sound`.
    """
    times = frame_times(row, per_second)
    return _plainly(row, lambda file: read_frames(file, times, size))


def frame_times(row: Row, per_second: float) -> list[float]:
    """The middles of equal parts of the clip, in seconds of the file."""
    length = row.get("sound_seconds") or row["seconds"]
    count = max(1, round(length * per_second))
    return [row["offset"] + (number + 0.5) * length / count for number in range(count)]


def _plainly(row: Row, read: Callable[[Location], T]) -> T:
    global _lost
    from av import FFmpegError

    file = location(row["path"])
    try:
        found = retried(lambda: read(file))
    except (FFmpegError, RuntimeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error  # FFmpeg's words without its number and the path
        raise ValueError(f"{file.name} cannot be decoded ({why}).") from None
    except StorageError as error:
        _lost += 1
        if _lost < DOWN:
            raise
        raise StopRun(f"Not one of {_lost} clips could be read, the last because: {error}") from None
    _lost = 0
    return found
