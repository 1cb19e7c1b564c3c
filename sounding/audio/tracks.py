"""Several sounds as one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .loudness import under_ceiling


def mix_tracks(tracks: Tensor, rate: int, gains: list[float] | None = None) -> Tensor:
    """Sum tracks [B, 1, samples], each moved by its gain in dB -> [1, samples].

    Tracks that are leveled keep the balance that the gains ask for; the sum is turned down as a whole where it would
    pass the `CEILING`.

    Raises:
        ValueError: not one finite gain a track.
    """
    gains = [0.0] * len(tracks) if gains is None else gains
    if len(gains) != len(tracks) or not all(math.isfinite(gain) for gain in gains):
        raise ValueError(f"gains are {gains} for {len(tracks)} tracks, but one number of dB per track is expected.")
    factors = 10 ** (torch.tensor(gains, device=tracks.device) / 20)
    total = (tracks * factors[:, None, None]).sum(dim=0)
    return under_ceiling(total, rate)
