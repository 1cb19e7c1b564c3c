"""Random training clips from recordings: one object or a mix of several, as the scenes have them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sounding.audio import resample

from .stamps import SAMPLE_RATE, fill, mix


def random_clip(recordings: list[Tensor], samples: int, rng: np.random.Generator) -> Tensor:
    """[samples]: half the time one recording, else a mix of two or three; peak 0.5 turned down by 0 to 12 dB."""
    count = int(rng.choice([1, 1, 2, 3]))
    chosen = rng.choice(len(recordings), count, replace=False)
    clip = mix([fill(recordings[i], samples, rng) for i in chosen], list(rng.uniform(-6, 6, count)))
    return clip * float(10 ** (-rng.uniform(0, 12) / 20))


def sounding_crops(
    recordings: list[Tensor], batch: int, samples: int, rng: np.random.Generator, *, plain: float = 0.0
) -> Tensor:
    """[batch, samples] cut around a place where there is sound, so that batches are not mostly gaps.

    A share `plain` comes from single recordings as they are. Of the rest, mixes at many levels, a third is
    played faster or slower (0.8 to 1.25 times): more pitches than the recordings have.
    """
    crops = []
    for _ in range(batch):
        if rng.random() < plain:
            clip = fill(recordings[int(rng.integers(len(recordings)))], 2 * samples, rng)
        else:
            clip = random_clip(recordings, 2 * samples, rng)
            if rng.random() < 1 / 3:
                clip = resample(clip, int(SAMPLE_RATE * rng.choice([0.8, 0.9, 1.1, 1.25])), SAMPLE_RATE)
        loud = (clip.abs() > 0.02 * clip.abs().max()).nonzero()[:, 0]
        centre = int(loud[int(rng.integers(len(loud)))])
        start = min(max(0, centre - samples // 2), len(clip) - samples)
        crops.append(clip[start : start + samples])
    return torch.stack(crops)
