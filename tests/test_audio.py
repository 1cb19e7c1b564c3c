"""Log-mel against librosa and torchaudio; sound files."""

from __future__ import annotations

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from sounding.audio import MelSpectrogram, fit_length, normalize, read_audio, resample, write_audio
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


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_written_sound_reads_back(tmp_path: Path, ending: str) -> None:
    waveform = sound()[0]
    path = tmp_path / "new folder" / f"sound{ending}"
    write_audio(path, waveform, RATE)
    back = read_audio(path, RATE)
    assert back.shape == waveform.shape
    assert (back - waveform).abs().max() <= 1 / 32768
    data, rate = soundfile.read(path)
    assert rate == RATE
    assert data.shape == (RATE,)


def test_channels_are_written_and_read_as_their_mean(tmp_path: Path) -> None:
    waveform = sound()
    waveform[1] *= 0.5
    write_audio(tmp_path / "stereo.wav", waveform, RATE)
    data, _ = soundfile.read(tmp_path / "stereo.wav")
    assert data.shape == (RATE, 2)
    back = read_audio(tmp_path / "stereo.wav", RATE)
    assert (back - waveform.mean(dim=0)).abs().max() <= 1 / 32768


def test_reading_resamples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100) * 0.5, 44_100)
    back = read_audio(tmp_path / "tone.wav", RATE)
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    torch.testing.assert_close(back[1000:-1000], expected[1000:-1000], atol=5e-3, rtol=0)


def test_loud_samples_are_limited(tmp_path: Path) -> None:
    write_audio(tmp_path / "loud.wav", torch.tensor([3.0, -3.0, 0.25]), RATE)
    data, _ = soundfile.read(tmp_path / "loud.wav")
    np.testing.assert_allclose(data, [1, -1, 0.25], atol=1e-4)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sound.wav"
    write_audio(path, sound()[0], RATE)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_audio(path, torch.zeros(RATE), RATE)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["sound.wav"]


@pytest.mark.parametrize("name", ["sound.xyz", "sound", "sound.txt"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.wav, \.flac or \.ogg is expected"):
        write_audio(tmp_path / name, torch.zeros(100), RATE)
    assert os.listdir(tmp_path) == []


def test_what_is_no_sound_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    for path in (tmp_path / "text.wav", tmp_path / "missing.wav"):
        with pytest.raises(ValueError, match="cannot be read as audio"):
            read_audio(path, RATE)
