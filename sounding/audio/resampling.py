"""Sampling rates and lengths of sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.libraries import importing

RATES = (1_000, 768_000)  # Hz: below, nothing is heard of most sounds; above, no recorder goes


def check_rate(rate: Any) -> int:
    """A sampling rate from outside, in Hz.

    Raises:
        ValueError: it is no whole number within `RATES`.
    """
    low, high = RATES
    number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if not number or not low <= float(rate) <= high or float(rate) % 1:
        raise ValueError(
            f"The sound's sampling rate is {rate!r}, but a whole number of {low} to {high} Hz is expected; convert it "
            "to 44100 Hz."
        )
    return int(rate)


def resample(waveform: Tensor, rate: int, to_rate: int, *, loop: bool = False) -> Tensor:
    """[..., samples] at `rate` Hz -> the same sound at `to_rate` Hz, float32 (soxr's "HQ", whatever the two rates).

    With `loop` the sound goes on with its beginning; it stays seamless if the samples at `to_rate` are a whole number.

    Raises:
        ValueError: one of the rates is outside `RATES`.
    """
    if rate == to_rate:
        return waveform
    rate, to_rate = check_rate(rate), check_rate(to_rate)
    samples = -(-waveform.shape[-1] * to_rate // rate)
    if 0 in waveform.shape:
        return waveform.new_zeros(*waveform.shape[:-1], samples, dtype=torch.float32)
    if loop:
        there = torch.arange(-rate, waveform.shape[-1] + rate, device=waveform.device) % waveform.shape[-1]
        return resample(waveform[..., there], rate, to_rate)[..., to_rate : to_rate + samples]
    with importing("soxr"):
        import soxr

    rows = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]).numpy()
    made = torch.stack([fit_length(torch.from_numpy(soxr.resample(row, rate, to_rate)), samples) for row in rows])
    return made.reshape(*waveform.shape[:-1], samples).to(waveform.device)


def fit_length(waveform: Tensor, samples: int) -> Tensor:
    """[..., any] cut or zero-padded at the end -> [..., samples]."""
    short = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, short)) if short > 0 else waveform[..., :samples]
