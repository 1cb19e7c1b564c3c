"""Defects of known size are found, with their size; a clean sound has none."""

from __future__ import annotations

import math

import pytest
import torch

from sounding.audio.loudness import level
from training.starter.evaluate.audio_quality import CHECKS, check_sound, measure_sound

RATE = 16_000


def tone(seconds: float = 1.0, peak: float = 0.15, hertz: float = 440.0) -> torch.Tensor:
    """A sine that begins and ends at zero."""
    return peak * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE) + 1) / RATE)


def found(waveform: torch.Tensor) -> dict[str, float]:
    return {finding.check.name: finding.value for finding in check_sound(waveform, RATE)}


def test_a_clean_sound_has_no_findings() -> None:
    assert found(tone()) == {}
    assert found(level(torch.randn(2 * RATE), RATE)) == {}


@pytest.mark.parametrize(("step", "size"), [(0.5, -6.02), (0.02, -33.98), (0.005, None)])
@pytest.mark.parametrize("end", ["start", "end"])
def test_steps_at_the_ends(step: float, size: float | None, end: str) -> None:
    sound = tone()
    sound[0 if end == "start" else -1] = step * sound.max()
    name = f"click at the {end}"
    assert found(sound) == ({} if size is None else {name: pytest.approx(size, abs=0.01)})
    assert measure_sound(sound, RATE)[name] == pytest.approx(20 * math.log10(step), abs=0.01)


def test_dc_offset() -> None:
    offset = 0.03
    figures = found(tone(peak=0.3) + offset)
    # the sound then begins at the offset, so that it clicks as well
    assert figures.keys() == {"DC offset", "click at the start", "click at the end"}
    assert figures["DC offset"] == pytest.approx(20 * math.log10(offset / (0.3 + offset)), abs=0.02)
    assert found(tone(peak=0.3) + 0.001) == {}


@pytest.mark.parametrize("full_scale", [1.0, 0.4])
def test_clipping_is_counted_in_runs_also_when_turned_down_later(full_scale: float) -> None:
    """A 100 Hz sine driven 6 dB too far is flat twice a period: 200 runs in a second."""
    clipped = full_scale * (2 * tone(peak=1.0, hertz=100.0)).clamp(-1, 1)
    assert measure_sound(clipped, RATE)["clipping"] == 200
    assert found(clipped)["clipping"] == 200
    assert measure_sound(tone(peak=full_scale, hertz=100.0), RATE)["clipping"] == 0


def test_two_samples_at_full_scale_are_no_clipping() -> None:
    sound = tone()
    sound[100:102] = 0.5
    assert "clipping" not in found(sound)
    sound[100:103] = 0.5
    assert found(sound)["clipping"] == 1


@pytest.mark.parametrize("sound", [torch.zeros(RATE), 1e-5 * torch.randn(RATE)], ids=["zeros", "far below the gate"])
def test_silence_is_all_that_is_said_of_silence(sound: torch.Tensor) -> None:
    assert found(sound).keys() == {"silence"}


def test_a_sound_with_long_pauses_is_not_silent() -> None:
    assert "silence" not in found(torch.cat([torch.zeros(4 * RATE), tone(0.2), torch.zeros(5 * RATE)]))


def test_peak_between_the_samples() -> None:
    """A quarter of the sampling rate, 45 degrees off: samples at 0.707 of a true peak of 1."""
    between = torch.sin(math.pi / 2 * torch.arange(RATE, dtype=torch.float64) + math.pi / 4).float()
    assert between.abs().max() == pytest.approx(2**-0.5, abs=1e-3)
    assert found(between)["peak"] == pytest.approx(0.0, abs=0.3)


@pytest.mark.parametrize(
    ("decibels", "names"), [(-60, {"peak", "loudness"}), (-30, {"peak", "loudness"}), (-12, set())]
)
def test_too_quiet(decibels: float, names: set[str]) -> None:
    sound = tone(peak=10 ** (decibels / 20))
    figures = measure_sound(sound, RATE)
    assert found(sound).keys() == names
    assert figures["peak"] == pytest.approx(decibels, abs=0.1)


def test_too_loud() -> None:
    assert found(tone(peak=0.99)).keys() == {"peak", "loudness"}


def test_findings_say_what_was_expected() -> None:
    quiet, loud = (str(check_sound(tone(peak=peak), RATE)[-1]) for peak in (0.01, 0.99))
    assert "at least -30 is expected" in quiet
    assert "at most -10 is expected" in loud
    assert all(check.definition and check.source for check in CHECKS.values())


@pytest.mark.parametrize("sound", [torch.zeros(1, 100), torch.zeros(0), torch.full((10,), torch.nan)])
def test_bad_input(sound: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"finite \[samples\] of one sound is expected"):
        check_sound(sound, RATE)
