"""Waveform to log-mel spectrogram, with AudioLDM's numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import AudioConfig
from ..utils.libraries import importing


def mel_filters(fft_size: int, bands: int, low: float, high: float, rate: int) -> Tensor:
    """Slaney's triangles of equal area between `low` and `high` Hz: [fft_size // 2 + 1, bands]."""
    with importing("transformers"):
        from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(fft_size // 2 + 1, bands, low, high, rate, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


class MelSpectrogram(torch.nn.Module):
    """Log-mel of a waveform: reflect-padded, not centred, Slaney bands of the STFT magnitude.

    One frame a hop: `samples` samples give `samples // hop` frames.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.config = config
        filters = mel_filters(config.fft_size, config.mel_bands, config.f_min, config.f_max, config.sample_rate)
        self.register_buffer("filters", filters, persistent=False)  # [fft/2+1, mel_bands]
        self.register_buffer("window", torch.hann_window(config.fft_size), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] float, -1..1 -> [B, samples // hop, mel_bands], natural log.

        Raises:
            ValueError: the waveform is not [B, samples] or is shorter than the padding needs.
        """
        config = self.config
        pad = (config.fft_size - config.hop) // 2
        if waveform.ndim != 2 or waveform.shape[1] <= pad:
            raise ValueError(
                f"waveform has shape {tuple(waveform.shape)}, but [B, samples] with more than {pad} samples "
                "is expected; pad the sound with silence."
            )
        padded = torch.nn.functional.pad(waveform.float()[:, None], (pad, pad), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded, config.fft_size, config.hop, window=self.window, center=False, return_complex=True
        )  # [B, fft/2+1, T]
        with torch.autocast(waveform.device.type, enabled=False):  # half of a logarithm's digits would be heard
            mel = spectrum.abs().transpose(1, 2) @ self.filters.float()  # [B, T, mel_bands]
        return mel.clamp(min=config.log_floor).log()


def normalize(waveform: Tensor, peak: float = 0.5) -> Tensor:
    """Remove each sound's mean and bring its peak to `peak` (silence stays silence): AudioLDM's training level."""
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    return centred * (peak / centred.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6))
