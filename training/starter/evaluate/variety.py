"""How much do sounds of one kind differ? Beside how much its real recordings do.

Distances are mean absolute differences of log-mels [T, 64], frame by frame, in nats. Sounds are brought to one peak
first and are not aligned, so two cuts of one recording differ as well: what they differ by stands beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sounding.audio.mel import MelSpectrogram, normalize
from sounding.config import AudioConfig

from ...data.waveforms import fill

CUTS = 4  # of each recording


def distance(sounds: Tensor, groups: Tensor, *, same: bool) -> float:
    """Mean distance of log-mels over all pairs of one group, or of two.

    Args:
        sounds: [N, samples] at 16 kHz.
        groups: of each, [N].
        same: whether to take the pairs within groups, not those between them.

    Returns:
        Nats; NaN if there is no such pair.
    """
    mels = MelSpectrogram(AudioConfig())(normalize(sounds)).flatten(1)
    far = torch.cdist(mels, mels, p=1) / mels.shape[1]
    alike = groups[:, None] == groups
    return float(far[alike.triu(diagonal=1) if same else ~alike].mean())


def recording_distances(recordings: Sequence[Tensor], samples: int, seed: int) -> tuple[float, float]:
    """The distance between `CUTS` cuts of one recording [any], and that between cuts of two of them."""
    rng = np.random.default_rng([97, seed])
    cuts = torch.stack([fill(sound, samples, rng) for sound in recordings for _ in range(CUTS)])
    groups = torch.arange(len(recordings)).repeat_interleave(CUTS)
    return distance(cuts, groups, same=True), distance(cuts, groups, same=False)
