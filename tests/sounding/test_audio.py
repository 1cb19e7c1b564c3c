"""Mel spectrograms, resampling and lengths."""

from __future__ import annotations

import math
import tracemalloc

import librosa
import numpy as np
import pytest
import torch
import torchaudio

from sounding.audio.mel import MelSpectrogram, normalize
from sounding.audio.resampling import fit_length, resample
from sounding.config import AudioConfig

RATE = 16_000


def sound(seconds: float = 1.0, batch: int = 2) -> torch.Tensor:
    """Noise with a chirp in it."""
    time = torch.arange(round(seconds * RATE)) / RATE
    chirp = 0.3 * torch.sin(2 * torch.pi * (200 + 1500 * time) * time)
    return chirp + 0.02 * torch.randn(batch, len(time), generator=torch.Generator().manual_seed(0))


def test_mel_is_librosas() -> None:
    waveform = sound()
    mel = MelSpectrogram(AudioConfig())(waveform)
    filters = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64, fmin=0, fmax=8000, dtype=np.float64)
    for row in range(len(waveform)):
        padded = np.pad(waveform[row].double().numpy(), (1024 - 160) // 2, mode="reflect")
        spectrum = np.abs(librosa.stft(padded, n_fft=1024, hop_length=160, window="hann", center=False))
        expected = np.log(np.maximum(filters @ spectrum, 1e-5)).T
        assert mel[row].shape == expected.shape
        np.testing.assert_allclose(mel[row].numpy(), expected, atol=1e-4)


def test_mel_is_torchaudios() -> None:
    waveform = sound()
    peer = torchaudio.transforms.MelSpectrogram(
        RATE, 1024, hop_length=160, n_mels=64, power=1.0, center=False, norm="slaney", mel_scale="slaney"
    )
    padded = torch.nn.functional.pad(waveform, (432, 432), mode="reflect")
    expected = peer(padded).clamp(min=1e-5).log().transpose(1, 2)
    torch.testing.assert_close(MelSpectrogram(AudioConfig())(waveform), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [433, 1600, 16_000, 16_159, 163_840])
def test_one_frame_a_hop(samples: int) -> None:
    mel = MelSpectrogram(AudioConfig())(torch.zeros(1, samples))
    assert mel.shape == (1, samples // 160, 64)


def test_silence_is_the_floor() -> None:
    mel = MelSpectrogram(AudioConfig())(torch.zeros(1, 1600))
    np.testing.assert_allclose(mel.numpy(), np.log(1e-5), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 432), (1, 0), (16_000,), (1, 1, 16_000)])
def test_too_short_or_misshapen_sounds_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"waveform has shape .*432 samples"):
        MelSpectrogram(AudioConfig())(torch.zeros(shape))


@pytest.mark.parametrize("rate", [44_100, 48_000, 8_000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    heard = resample(tone, rate, RATE)
    assert heard.shape == expected.shape
    torch.testing.assert_close(heard[1000:-1000], expected[1000:-1000], atol=5e-3, rtol=0)


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 11_025])
def test_resampling_is_torchaudios_where_its_filter_is_flat(rate: int) -> None:
    """Below 6 kHz: torchaudio's short filter already falls above, and lets some of what is beyond 8 kHz through."""
    noise = torch.randn(2, rate)
    band = torch.fft.rfft(noise)
    band[:, min(6_000, rate // 2 - 500) :] = 0
    low = torch.fft.irfft(band, rate)
    ours, theirs = resample(low, rate, RATE), torchaudio.functional.resample(low, rate, RATE, lowpass_filter_width=64)
    assert ours.shape == theirs.shape
    assert (ours - theirs)[:, 500:-500].abs().max() < 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("rate", [1_000, 7_919, 16_001, 44_101, 191_999, 768_000])
def test_any_two_rates_take_little(rate: int) -> None:
    """Ten seconds of a rate that shares no large divisor with 16000 take no more time and memory than of 44100."""
    tone = torch.sin(2 * math.pi * 200 * torch.arange(10 * rate).double() / rate).float()
    tracemalloc.start()
    heard = resample(tone, rate, RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert heard.shape == (10 * RATE,)
    assert peak < 200e6
    expected = torch.sin(2 * math.pi * 200 * torch.arange(10 * RATE).double() / RATE).float()
    torch.testing.assert_close(heard[2000:-2000], expected[2000:-2000], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "rate", [0, 1, 999, 768_001, 2**31, -44_100, 44_100.5, float("nan"), float("inf"), None, "44100", True]
)
def test_absurd_rates_are_one_sentence(rate: object) -> None:
    with pytest.raises(ValueError, match=r"sampling rate is .* a whole number of 1000 to 768000 Hz is expected"):
        resample(torch.zeros(1, 100), rate, RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [44_100, 44_101, 8_000])
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 100])
def test_short_and_empty_sounds_keep_their_length(rate: int, samples: int) -> None:
    heard = resample(torch.ones(2, samples), rate, RATE)
    assert heard.shape == (2, -(-samples * RATE // rate))
    assert heard.isfinite().all()


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    waveform = sound()
    assert resample(waveform, RATE, RATE) is waveform


def test_fit_length_cuts_or_pads_at_the_end() -> None:
    waveform = torch.arange(1.0, 5.0).expand(2, 4)
    assert fit_length(waveform, 2).tolist() == [[1, 2]] * 2
    assert fit_length(waveform, 4).tolist() == [[1, 2, 3, 4]] * 2
    assert fit_length(waveform, 6).tolist() == [[1, 2, 3, 4, 0, 0]] * 2


def test_normalize_centres_and_sets_each_peak() -> None:
    waveform = sound() * torch.tensor([[3.0], [0.01]]) + 0.2
    level = normalize(waveform)
    for row, original in zip(level.double().numpy(), waveform.double().numpy(), strict=True):
        centred = original - original.mean()
        np.testing.assert_allclose(row, centred * 0.5 / np.abs(centred).max(), atol=1e-5)
    assert normalize(torch.zeros(1, 100)).abs().max() == 0
