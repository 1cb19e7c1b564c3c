"""Waveforms of single objects: trimmed, brought to a length, and mixed."""

from __future__ import annotations

import numpy as np
import torch

from sounding.audio.mel import normalize

from .shard_format import SAMPLE_RATE


def trim(waveform: torch.Tensor, floor_db: float = -40.0) -> torch.Tensor:
    """Cut what is `floor_db` below the peak off both ends of [samples], leaving 20 ms around the sound."""
    loud = (waveform.abs() > waveform.abs().max() * 10 ** (floor_db / 20)).nonzero()
    margin = SAMPLE_RATE // 50
    start = max(0, int(loud[0]) - margin)
    return waveform[start : int(loud[-1]) + 1 + margin]


def fill(recording: torch.Tensor, samples: int, rng: np.random.Generator) -> torch.Tensor:
    """A clip of `samples` from one recording: a random cut of a long one, a short one repeated with random gaps."""
    if len(recording) >= samples:
        start = int(rng.integers(0, len(recording) - samples + 1))
        return recording[start : start + samples].clone()
    clip = torch.zeros(samples)
    position = int(rng.integers(0, min(SAMPLE_RATE // 2, samples - len(recording)) + 1))
    while position < samples:
        end = min(position + len(recording), samples)
        clip[position:end] = recording[: end - position]
        position = end + int(rng.integers(SAMPLE_RATE // 20, SAMPLE_RATE * 3 // 4))
    return clip


def mix(clips: list[torch.Tensor], gains_db: list[float]) -> torch.Tensor:
    """Sum [samples] clips at equal loudness (RMS while sounding) moved by `gains_db`; peak 0.5."""
    total = torch.zeros_like(clips[0])
    for clip, gain in zip(clips, gains_db, strict=True):
        sounding = clip[clip.abs() > 1e-4]
        level = sounding.square().mean().sqrt() if len(sounding) else torch.tensor(1.0)
        total += clip / level * 10 ** (gain / 20)
    return normalize(total)
