"""Waveform to log-mel spectrogram and back to files: the numbers are AudioLDM's (DESIGN: "Mel")."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import AudioConfig
from .files import write_atomic
from .libraries import importing

# What `level` brings sounds to. -20 LUFS is the loudest whole number that 95 % of the starter's 79 recordings reach
# below the ceiling: their true peaks lie 6 to 27 LU above their loudness, 19 LU at the 95th percentile. The ceiling is
# EBU R 128's.
LOUDNESS = -20.0  # LUFS (ITU-R BS.1770)
CEILING = -1.0  # dBTP
MAX_GAIN = 24.0  # dB: what would need more is residue of the networks, which work at a peak of -6 dB
SILENCE = -50.0  # dB of the highest sample: nothing below is turned up at all,
GATE = -70.0  # LUFS: nor what is below BS.1770's absolute gate, whatever single samples it has
FADE_IN, CLICK = 0.002, 0.005  # seconds; no sound ends in a fade shorter than `CLICK`
# Unless asked otherwise, the last 0.3 s of a sound fade, of a short one the last tenth: the least with which every one
# of 23 starter sounds ends at less than half its loudness (docs/sounds.md).
FADE_OUT, FADE_SHARE = 0.3, 0.1
_BLOCK = 0.4  # seconds, BS.1770's gating block
# What a sound from outside may be.
RATES = (1_000, 768_000)  # Hz: below, nothing is heard of most sounds; above, no recorder goes
MAX_SECONDS = 3600.0  # of a file
_MAX_VALUES = 2**30  # samples of all channels of a file: an hour of stereo at 149 kHz
# Formats that keep rate, channels and 16 bits; what else libsndfile writes does not, or leaves files beside.
WRITTEN = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV")
_PIECE = 2**18  # values that are read or written at a time


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
        mel = spectrum.abs().transpose(1, 2) @ self.filters  # [B, T, mel_bands]
        return mel.clamp(min=config.log_floor).log()


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


def resample(waveform: Tensor, rate: int, to_rate: int) -> Tensor:
    """[..., samples] at `rate` Hz -> the same sound at `to_rate` Hz, float32 (soxr's "HQ", whatever the two rates).

    Raises:
        ValueError: one of the rates is outside `RATES`.
    """
    if rate == to_rate:
        return waveform
    rate, to_rate = check_rate(rate), check_rate(to_rate)
    samples = -(-waveform.shape[-1] * to_rate // rate)
    if 0 in waveform.shape:
        return waveform.new_zeros(*waveform.shape[:-1], samples, dtype=torch.float32)
    with importing("soxr"):
        import soxr

    rows = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]).numpy()
    made = torch.stack([fit_length(torch.from_numpy(soxr.resample(row, rate, to_rate)), samples) for row in rows])
    return made.reshape(*waveform.shape[:-1], samples).to(waveform.device)


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
    with importing("pyloudnorm"):
        import pyloudnorm

    rows = waveform.detach().double().cpu().reshape(-1, waveform.shape[-1])
    peaks = rows.abs().amax(dim=1)
    result = torch.full_like(peaks, -torch.inf)
    meter, block = pyloudnorm.Meter(rate, block_size=_BLOCK), math.ceil(_BLOCK * rate)
    for number, (row, peak) in enumerate(zip(rows, peaks, strict=True)):
        if peak > 0:
            half = (row * (0.5 / peak)).repeat(-(-block // len(row)))
            # Whole blocks only, as the standard has it: the meter would round, and end in half a block.
            steps = math.floor((len(half) / rate - _BLOCK) / (_BLOCK / 4) + 1e-9)
            half = half[: math.ceil((_BLOCK + steps * _BLOCK / 4) * rate - 1e-6)]
            result[number] = meter.integrated_loudness(half.numpy()) + decibels(peak / 0.5)
    return result.reshape(waveform.shape[:-1]).to(waveform.device, torch.float32)


def true_peak(waveform: Tensor, rate: int) -> Tensor:
    """Highest value between the samples too, [..., samples] -> [...] (BS.1770-4 annex 2: four times oversampled).

    The filter is a sinc of 12 samples under a Hann window, which ends at 99 % of the highest frequency.
    """
    with importing("scipy"):
        from scipy.signal import upfirdn

    times = 0.99 * np.arange(-24, 25) / 4  # in samples; the window is zero at 6
    taps = (0.99 * np.sinc(times) * np.cos(np.pi * times / 12) ** 2).astype(np.float32)
    rows = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]).numpy()
    peaks = torch.tensor([float(np.abs(upfirdn(taps, row, up=4)).max()) for row in rows])
    return peaks.reshape(waveform.shape[:-1]).to(waveform.device)


def fades(samples: int, rate: int, fade_out: float | None = None) -> Tensor:
    """[samples] of gain: half a Hann window up at the start and down at the end, one between.

    Args:
        samples: length of the sound.
        rate: in Hz.
        fade_out: seconds of the one at the end, see `level`.

    Raises:
        ValueError: see `check_fade_out`.
    """
    check_fade_out(fade_out)
    seconds = samples / rate
    fade_out = min(FADE_OUT, FADE_SHARE * seconds) if fade_out is None else min(fade_out, seconds)
    gain = torch.ones(samples)
    for length, back in ((FADE_IN, False), (max(fade_out, CLICK), True)):
        count = min(round(length * rate), samples // 2)
        ramp = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(count) / max(count, 1))
        part = gain[samples - count :] if back else gain[:count]
        part *= ramp.flip(0) if back else ramp
    return gain


def check_fade_out(seconds: float | None) -> None:
    """Whether `level` takes this as its `fade_out`, to be asked before long work.

    Raises:
        ValueError: it is negative or not finite.
    """
    if seconds is not None and not 0 <= seconds < math.inf:
        raise ValueError(f"fade_out is {seconds}, but 0 seconds or more are expected; 0 is the shortest fade.")


def level(waveform: Tensor, rate: int, fade_out: float | None = None) -> Tensor:
    """Make sounds [..., samples] fit to be heard and mixed: equally loud, without DC, clicks at the ends or clipping.

    The mean is removed, both ends are faded, and one gain brings each row to `LOUDNESS`, or as near as the `CEILING`
    and `MAX_GAIN` allow. It is a gain and no limiter: the sound itself is not bent. Silence stays silence.

    Args:
        waveform: the sounds.
        rate: in Hz.
        fade_out: seconds in which the sound dies away at its end, `CLICK` at least and half of the sound at most;
            without it `FADE_OUT` or, of a short sound, the share `FADE_SHARE`.

    Raises:
        ValueError: the waveform has no samples, or some that are not finite; `fade_out` is negative or not finite.
    """
    if 0 in waveform.shape or not waveform.isfinite().all():
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but at least one sample and only finite ones are expected; "
            "check what made it."
        )
    waveform = waveform.float()
    gain = fades(waveform.shape[-1], rate, fade_out).to(waveform.device)
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
    """Read a sound file of any rate and number of channels as mono at `sample_rate`: [samples] float.

    It is read from front to back, so that what its header says of its length does not matter, and in pieces, so that
    it takes no more memory than the result.

    Raises:
        ValueError: the file cannot be read as audio, is longer than `MAX_SECONDS`, has a rate outside `RATES` or
            samples that are not finite.
    """
    with importing("soundfile"):
        import soundfile
    with importing("soxr"):
        import soxr

    class Stream(soundfile.SoundFile):  # type: ignore[misc]
        """After each piece soundfile seeks to where it is, which fails where a header gives no length."""

        def seekable(self) -> bool:
            return False

    if not Path(path).is_file():
        raise ValueError(f"{path} cannot be read as audio (no such file); give a WAV, FLAC, OGG or MP3.")
    try:
        with Stream(path) as file:
            rate, frames = check_rate(file.samplerate), 0
            step = max(1, _PIECE // file.channels)
            most = min(MAX_SECONDS * rate, _MAX_VALUES / file.channels)
            change = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
            pieces = []
            while len(piece := file.read(step, dtype="float32", always_2d=True)):
                frames += len(piece)
                if frames > most:
                    raise ValueError(f"it is longer than {most / rate:.0f} s; cut it")
                mono = np.ascontiguousarray(piece.mean(axis=1))
                pieces.append(mono if change is None else change.resample_chunk(mono))
            if change is not None and frames:
                pieces.append(change.resample_chunk(np.zeros(0, np.float32), last=True))
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:  # TypeError: a name that ends in .raw
        raise ValueError(f"{path} cannot be read as audio ({error}); give a WAV, FLAC, OGG or MP3.") from None
    sound = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *pieces]))
    if not sound.isfinite().all():
        raise ValueError(f"{path} has samples that are not finite, but numbers are expected; export it again.")
    return fit_length(sound, -(-frames * sample_rate // rate))


def audio_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of `path` names, to be checked before long work.

    Raises:
        ValueError: the ending is none of `WRITTEN`, or this libsndfile does not write it.
    """
    with importing("soundfile"):
        import soundfile

    name = Path(path).suffix[1:].upper()
    if name not in WRITTEN or name not in soundfile.available_formats():
        raise ValueError(f"{path} ends in {Path(path).suffix!r}, but .wav, .flac or .ogg is expected.")
    return name


def write_audio(path: str | os.PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write [channels, samples] or [samples] atomically; the ending of `path` names the format.

    Samples are written as 16 bits, values beyond -1..1 are limited.

    Raises:
        ValueError: the ending is not a format that is written, or the format does not take this rate or so many
            channels.
    """
    name = audio_format(path)
    import soundfile

    samples = waveform.detach().float().cpu().clamp(-1, 1).reshape(-1, waveform.shape[-1]).T.numpy()
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", sample_rate, samples.shape[1], format=name) as file:
            for piece in _pieces(samples):  # libsndfile's Vorbis encoder overruns its stack on a long sound at once
                file.write(piece)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path} cannot be written ({error}); give a .wav.") from None
    write_atomic(path, buffer.getvalue())


def _pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _PIECE // samples.shape[1])
    return (samples[start : start + step] for start in range(0, len(samples), step))
