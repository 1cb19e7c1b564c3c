"""An object's way through a video: when it is seen, how large and where, and what that makes of its sound over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..utils.libraries import importing
from .loudness import ramps

DROPOUT = 0.1  # seconds: an object that is missing for less than this was lost by its tracker and not absent
FADE = 0.1  # seconds in which a sound comes and goes, within the time in which its object is seen
SMOOTH = 0.1  # seconds, the deviation of the Gaussian over sizes and places: outlines of trackers tremble
SEEN = 0.5  # of a mask's value: videos of masks are not quite black where they are black


@dataclass(frozen=True)
class Sight:
    """An object in one frame."""

    share: float  # of the image that it covers; 0 where it is absent
    pan: float  # of its centre: -1 at the left edge of the image, 1 at the right one


def sight_of(mask: Tensor) -> Sight:
    """What a mask [H, W] 0..1 shows, as far as it is at least half white."""
    columns = (mask >= SEEN).sum(dim=0).double().cpu()
    total = float(columns.sum())
    if not total:
        return Sight(0.0, 0.0)
    places = (torch.arange(len(columns), dtype=torch.float64) + 0.5) / len(columns)
    return Sight(total / mask.numel(), 2 * float(columns @ places) / total - 1)


@dataclass(frozen=True)
class Motion:
    """An object in all frames of a video. A frame counts from its time to that of the next."""

    sights: Sequence[Sight]
    frame_rate: float

    def runs(self, gap: float) -> list[tuple[int, int]]:
        """First frames, and those after the last, of the times in which the object is seen; it may be missing in
        between for less than `gap` seconds.
        """
        seen = np.flatnonzero([sight.share for sight in self.sights])
        if not len(seen):
            return []
        apart = np.flatnonzero(np.diff(seen) - 1 >= max(1.0, gap * self.frame_rate - 1e-6))
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(seen, apart + 1)]

    def gain(self, samples: int, rate: int, follow: float = 1.0) -> Tensor:
        """[samples] of gain: 0 where the object is absent, and by its size where it is seen.

        The gain is inverse to the distance, and this to the root of the share of the image that is covered; it is 1
        where the object is largest.

        Args:
            samples: length of the sound.
            rate: in Hz.
            follow: the exponent of that: 0 ignores the size, at 1 half as far is 6 dB louder.
        """
        sizes = np.sqrt([sight.share for sight in self.sights])
        size = torch.from_numpy(self._curve(sizes / max(sizes.max(), 1e-12), samples, rate))
        gain = torch.zeros(samples)
        for first, last in self.runs(DROPOUT):
            start, end = (min(samples, round(frame / self.frame_rate * rate)) for frame in (first, last))
            fade = min(round(FADE * rate), (end - start) // 2)
            gate = ramps(end - start, fade if first else 0, fade)
            gain[start:end] = gate * size[start:end].float() ** follow
        return gain

    def pan(self, samples: int, rate: int) -> Tensor:
        """[samples] of the place from left, -1, to right, 1; where the object is absent, it goes from one place to the
        next.
        """
        return torch.from_numpy(self._curve(np.array([sight.pan for sight in self.sights]), samples, rate)).float()

    def _curve(self, values: np.ndarray, samples: int, rate: int) -> np.ndarray:
        """Values of frames, as [samples]: smooth within each run, linear between the middles of frames."""
        with importing("scipy"):
            from scipy.ndimage import gaussian_filter1d

        shares = np.array([sight.share for sight in self.sights])
        frames: list[np.ndarray] = [np.zeros(0)]
        smooth: list[np.ndarray] = [np.zeros(0)]
        for first, last in self.runs(DROPOUT):
            run = np.arange(first, last)
            seen = run[shares[first:last] > 0]
            whole = np.interp(run, seen, values[seen])
            frames.append(run)
            smooth.append(gaussian_filter1d(whole, SMOOTH * self.frame_rate, mode="nearest"))
        times = (np.concatenate(frames) + 0.5) / self.frame_rate
        return np.interp(np.arange(samples) / rate, times, np.concatenate(smooth)) if len(times) else np.zeros(samples)
