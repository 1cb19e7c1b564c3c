"""Waveform to log-mel spectrogram and back to files: the numbers are AudioLDM's (DESIGN: "Mel")."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import AudioConfig
from .files import write_atomic


class MelSpectrogram(torch.nn.Module):
    """Log-mel of a waveform: reflect-padded, not centred, Slaney bands of the STFT magnitude.

    One frame a hop: `samples` samples give `samples // hop` frames.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, config: AudioConfig):
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.config = config
        filters = melscale_fbanks(
            config.fft_size // 2 + 1,
            config.f_min,
            config.f_max,
            config.mel_bands,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
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
        mel = spectrum.abs().transpose(1, 2) @ self.filters  # [B, T, mel_bands]
        return mel.clamp(min=config.log_floor).log()


def resample(waveform: Tensor, rate: int, to_rate: int) -> Tensor:
    """[..., samples] at `rate` Hz -> the same sound at `to_rate` Hz."""
    if rate == to_rate:
        return waveform
    from torchaudio.functional import resample as torchaudio_resample

    return torchaudio_resample(waveform, rate, to_rate)


def fit_length(waveform: Tensor, samples: int) -> Tensor:
    """[..., any] cut or zero-padded at the end -> [..., samples]."""
    short = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, short)) if short > 0 else waveform[..., :samples]


def normalize(waveform: Tensor, peak: float = 0.5) -> Tensor:
    """Remove each sound's mean and bring its peak to `peak` (silence stays silence): AudioLDM's training level."""
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    return centred * (peak / centred.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6))


def read_audio(path: str | os.PathLike[str], sample_rate: int) -> Tensor:
    """Read a sound file as mono at `sample_rate`: [samples] float.

    Raises:
        ValueError: the file cannot be read as audio.
    """
    import soundfile

    try:
        data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio ({error}); give a WAV, FLAC, OGG or MP3.") from None
    return resample(torch.from_numpy(np.ascontiguousarray(data.mean(axis=1))), rate, sample_rate)


def audio_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of `path` names, to be checked before long work.

    Raises:
        ValueError: the ending is not a format that soundfile writes.
    """
    import soundfile

    name = Path(path).suffix[1:].upper()
    if name not in soundfile.available_formats():
        raise ValueError(f"{path} ends in {Path(path).suffix!r}, but .wav, .flac or .ogg is expected.")
    return name


def write_audio(path: str | os.PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write [channels, samples] or [samples] atomically; the ending of `path` names the format.

    Samples are written as 16 bits, values beyond -1..1 are limited.

    Raises:
        ValueError: the ending is not a format that soundfile writes.
    """
    import soundfile

    name = audio_format(path)
    samples = waveform.detach().float().cpu().clamp(-1, 1).reshape(-1, waveform.shape[-1]).T.numpy()
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=name)
    write_atomic(path, buffer.getvalue())
