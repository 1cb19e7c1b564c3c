"""Sound files: every ending, rate and number of channels; damaged, cut short and overlong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sounding.audio import files as sound_files
from sounding.audio.files import audio_format, read_audio, write_audio

from ..conftest import ROOT

RATE = 16_000


def sound(seconds: float = 1.0, batch: int = 2) -> torch.Tensor:
    """Noise with a chirp in it."""
    time = torch.arange(round(seconds * RATE)) / RATE
    chirp = 0.3 * torch.sin(2 * torch.pi * (200 + 1500 * time) * time)
    return chirp + 0.02 * torch.randn(batch, len(time), generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 44_101, 48_000])
@pytest.mark.parametrize("ending", ["wav", "ogg", "aiff"])
@pytest.mark.parametrize("channels", [1, 2])
def test_empty_files_are_empty_sounds(tmp_path: Path, rate: int, ending: str, channels: int) -> None:
    path = tmp_path / f"empty.{ending}"
    soundfile.write(path, np.zeros((0, channels)), rate)
    assert read_audio(path, RATE).shape == (0,)


def test_a_flac_of_its_header_alone_is_an_empty_sound(tmp_path: Path) -> None:
    path = tmp_path / "header.flac"
    soundfile.write(path, np.zeros(4_000), 44_100)
    data = path.read_bytes()
    for known in (data, _without_length(data, "flac")):
        path.write_bytes(known[: data.index(b"\xff\xf8")])  # up to the first frame
        assert read_audio(path, RATE).shape == (0,)


def _without_length(data: bytes, ending: str) -> bytes:
    """The same file as a program writes it that cannot go back to the header."""
    if ending == "flac":  # STREAMINFO's last 36 bits before the checksum: no number of samples
        return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]
    assert ending == "wav"
    place = data.index(b"data") + 4
    return data[:4] + b"\xff" * 4 + data[8:place] + b"\xff" * 4 + data[place + 4 :]


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_streamed_files_are_read_to_their_end(tmp_path: Path, ending: str, rate: int, channels: int) -> None:
    whole, streamed = tmp_path / f"whole.{ending}", tmp_path / f"streamed.{ending}"
    soundfile.write(whole, 0.2 * np.random.default_rng(0).standard_normal((2 * rate + 7, channels)), rate)
    streamed.write_bytes(_without_length(whole.read_bytes(), ending))
    assert whole.read_bytes() != streamed.read_bytes()
    assert torch.equal(read_audio(streamed, RATE), read_audio(whole, RATE))
    assert len(read_audio(whole, RATE)) == -(-(2 * rate + 7) * RATE // rate)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_files_cut_short_or_damaged_are_read_or_refused(tmp_path: Path, ending: str) -> None:
    """Whatever a file holds: a sound of finite numbers or a sentence."""
    path = tmp_path / f"sound.{ending}"
    soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal(20_000), RATE)
    data, draw = path.read_bytes(), np.random.default_rng(1)
    for number in range(60):
        broken = bytearray(data[: draw.integers(0, len(data))] if number % 2 else data)
        for place in draw.integers(0, max(len(broken), 1), 3 if broken else 0):
            broken[place if number % 3 else place % min(64, len(broken))] = draw.integers(256)
        path.write_bytes(bytes(broken))
        said, heard = "", torch.zeros(0)
        try:
            heard = read_audio(path, RATE)
        except ValueError as error:
            said = str(error)
        assert not said or (str(path) in said and "\n" not in said)
        assert heard.ndim == 1
        assert heard.isfinite().all()


def test_long_files_are_refused_before_they_take_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.flac"  # silence takes next to nothing
    soundfile.write(path, np.zeros(60 * RATE, np.int16), RATE)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(sound_files, "MAX_SECONDS", 50.0)
    with pytest.raises(ValueError, match="longer than 50 s"):
        read_audio(path, RATE)
    monkeypatch.setattr(sound_files, "MAX_SECONDS", 70.0)
    monkeypatch.setattr(sound_files, "_MAX_VALUES", 40 * RATE)
    with pytest.raises(ValueError, match="longer than 40 s"):
        read_audio(path, RATE)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for number, bad in enumerate((np.nan, np.inf, -np.inf)):
        for rate in (RATE, 44_100):
            path = tmp_path / f"{number}{rate}.wav"
            samples = np.zeros(rate, np.float32)
            samples[100] = bad
            soundfile.write(path, samples, rate, subtype="FLOAT")
            with pytest.raises(ValueError, match="not finite"):
                read_audio(path, RATE)


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


def test_ten_minutes_are_written(tmp_path: Path) -> None:
    """The longest that the nodes make. libsndfile's Vorbis encoder ends the process if it gets so much at once."""
    paths = [tmp_path / f"long{ending}" for ending in (".ogg", ".flac", ".mp3")]
    code = "import sys, torch; from sounding.audio.files import write_audio; sound = 0.1 * torch.randn(600 * 16_000)\n"
    code += "for path in sys.argv[1:]: write_audio(path, sound, 16_000)"
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=ROOT, timeout=600)
    for path in paths:
        assert soundfile.info(path).duration == pytest.approx(600, abs=0.1)


@pytest.mark.parametrize(
    "name", ["sound.xyz", "sound", "sound.txt", "sound.raw", "sound.wve", "sound.xi", "sound.sd2", "."]
)
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg or \.mp3 is expected"):
        write_audio(tmp_path / name, torch.zeros(100), RATE)
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg or \.mp3 is expected"):
        audio_format(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_what_is_no_sound_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "text.raw").write_text("not a sound")
    (tmp_path / "nothing.wav").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    names = (
        "text.wav",
        "text.raw",
        "nothing.wav",
        "pipe.wav",
        "missing.wav",
        ".",
        "a\0b.wav",
        "\ud800.wav",
        "x" * 5000,
    )
    for path in (*(tmp_path / name for name in names), Path("/dev/zero")):
        with pytest.raises(ValueError, match="cannot be read as audio") as caught:
            read_audio(path, RATE)
        assert str(caught.value).isprintable()
