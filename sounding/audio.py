"""Waveform to log-mel spectrogram and back to files: the numbers are AudioLDM's (DESIGN: "Mel")."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import AudioConfig
from .files import write_atomic

# What `level` brings sounds to. -20 LUFS is the loudest whole number that 95 % of the starter's 79 recordings reach
# below the ceiling: their true peaks lie 6 to 27 LU above their loudness, 19 LU at the 95th percentile. The ceiling is
# EBU R 128's.
LOUDNESS = -20.0  # LUFS (ITU-R BS.1770)
CEILING = -1.0  # dBTP
MAX_GAIN = 24.0  # dB: what would need more is residue of the networks, which work at a peak of -6 dB
SILENCE = -50.0  # dB of the highest sample: nothing below is turned up at all,
GATE = -70.0  # LUFS: nor what is below BS.1770's absolute gate, whatever single samples it has
FADE_IN, FADE_OUT = 0.002, 0.005  # seconds
_BLOCK = 0.4  # seconds, BS.1770's gating block


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


def decibels(amplitude: Tensor) -> Tensor:
    """20 log10, -inf for zero."""
    return 20 * amplitude.log10()


def loudness(waveform: Tensor, rate: int) -> Tensor:
    """Integrated loudness of mono sounds [..., samples] -> [...] in LUFS, -inf for silence (ITU-R BS.1770-4).

    A sound shorter than one gating block (0.4 s) is measured as if it were repeated to fill it. The absolute gate is
    applied to the sound at a peak of 0.5, so that a quiet sound is measured like a loud one.
    """
    from torchaudio.functional import loudness as torchaudio_loudness

    rows = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1])  # its recursive filters are slow elsewhere
    peaks = rows.abs().amax(dim=1)
    heard = peaks > 0
    result = torch.full_like(peaks, -torch.inf)
    if heard.any():
        half = rows[heard] * (0.5 / peaks[heard, None])  # torchaudio's filters clip at 1
        half = half.repeat(1, -(-round(_BLOCK * rate) // half.shape[1]))
        result[heard] = torchaudio_loudness(half[:, None], rate) + decibels(peaks[heard] / 0.5)
    return result.reshape(waveform.shape[:-1]).to(waveform.device)


def true_peak(waveform: Tensor, rate: int) -> Tensor:
    """Highest value between the samples too, [..., samples] -> [...] (BS.1770-4 annex 2: four times oversampled)."""
    return resample(waveform, rate, 4 * rate).abs().amax(dim=-1)


def fades(samples: int, rate: int) -> Tensor:
    """[samples] of gain: half a Hann window up at the start and down at the end, one between."""
    gain = torch.ones(samples)
    for seconds, back in ((FADE_IN, False), (FADE_OUT, True)):
        length = min(round(seconds * rate), samples // 2)
        ramp = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(length) / length)
        part = gain[samples - length :] if back else gain[:length]
        part *= ramp.flip(0) if back else ramp
    return gain


def level(waveform: Tensor, rate: int) -> Tensor:
    """Make sounds [..., samples] fit to be heard and mixed: equally loud, without DC, clicks at the ends or clipping.

    The mean is removed, both ends are faded, and one gain brings each row to `LOUDNESS`, or as near as the `CEILING`
    and `MAX_GAIN` allow. It is a gain and no limiter: the sound itself is not bent. Silence stays silence.

    Raises:
        ValueError: the waveform has no samples, or some that are not finite.
    """
    if 0 in waveform.shape or not waveform.isfinite().all():
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but at least one sample and only finite ones are expected; "
            "check what made it."
        )
    waveform = waveform.float()
    gain = fades(waveform.shape[-1], rate).to(waveform.device)
    # This mean makes that of the faded sound zero.
    mean = (waveform * gain).sum(dim=-1, keepdim=True) / gain.sum().clamp(min=1e-6)
    faded = (waveform - mean) * gain
    room = CEILING - decibels(true_peak(faded, rate))
    integrated = loudness(faded, rate)
    raised = torch.minimum(LOUDNESS - integrated, room).clamp(max=MAX_GAIN)
    silent = (decibels(faded.abs().amax(dim=-1)) < SILENCE) | (integrated < GATE)
    return faded * 10 ** (raised.masked_fill(silent, 0.0) / 20)[..., None]


def mix_tracks(tracks: Tensor, rate: int, gains: list[float] | None = None) -> Tensor:
    """Sum tracks [B, 1, samples], each moved by its gain in dB -> [1, samples].

    Tracks that are leveled keep the balance that the gains ask for; the sum is turned down as a whole where it would
    pass the `CEILING`.

    Raises:
        ValueError: not one finite gain a track.
    """
    gains = [0.0] * len(tracks) if gains is None else gains
    if len(gains) != len(tracks) or not all(math.isfinite(gain) for gain in gains):
        raise ValueError(f"gains are {gains} for {len(tracks)} tracks, but one number of dB a track is expected.")
    factors = 10 ** (torch.tensor(gains, device=tracks.device) / 20)
    total = (tracks * factors[:, None, None]).sum(dim=0)
    return total * (10 ** (CEILING / 20) / true_peak(total, rate).max().clamp(min=1e-6)).clamp(max=1)


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
