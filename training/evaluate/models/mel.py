"""Mel filters whose triangles are straight in the mel scale, not in Hz: those of VGGish and of Kaldi."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor

from sounding.utils.libraries import importing


@lru_cache(maxsize=8)
def kaldi_mel_filters(fft_size: int, bands: int, low: float, high: float, rate: int) -> Tensor:
    """Triangles between `low` and `high` Hz, mel = 1127 ln(1 + f / 700): [fft_size // 2 + 1, bands], peaks near 1.

    Low bands may fall between two bins and be empty, as they are in Kaldi.
    """
    with importing("transformers"):
        from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty bands
        filters = mel_filter_bank(
            fft_size // 2 + 1, bands, low, high, rate, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
        )
    return torch.from_numpy(filters).float()
