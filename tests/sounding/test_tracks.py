"""Tracks and their mix: offsets, fades, mute and solo, and a loudness that an independent meter reads."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
import torch
from torch import Tensor

from sounding.audio.loudness import CEILING, programme_loudness, true_peak
from sounding.audio.tracks import Track, arrange_tracks, mix_tracks

RATE = 16_000


def noise(rows: int = 2, channels: int = 2, samples: int = 2 * RATE, scale: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return scale * torch.randn(rows, channels, samples, generator=generator)


def test_tracks_begin_and_fade_as_they_are_told() -> None:
    sounds = torch.ones(2, 1, 1000)
    settings = [Track(gain=-6.0, offset=0.01, fade_in=0.02), Track(fade_out=0.05)]
    first, second = arrange_tracks(sounds, RATE, settings)[:, 0]
    assert len(first) == len(second) == 1160  # the later one still ends whole
    gain = 10 ** (-6 / 20)
    assert first[:160].abs().max() == 0
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(320) / 320)
    np.testing.assert_allclose(first[160:480], gain * ramp, atol=1e-6)
    np.testing.assert_allclose(first[480:], gain, atol=1e-6)
    np.testing.assert_allclose(second[:200], 1)
    np.testing.assert_allclose(second[200:1000], (0.5 + 0.5 * np.cos(np.pi * np.arange(1, 801) / 800)), atol=1e-6)
    assert second[1000:].abs().max() == 0


def test_muted_tracks_are_silent_and_so_is_what_is_not_solo() -> None:
    sounds = torch.ones(3, 2, 10)

    def heard(*settings: Track) -> list[bool]:
        return [bool(each.any()) for each in arrange_tracks(sounds, RATE, settings)]

    assert heard(Track(), Track(muted=True), Track()) == [True, False, True]
    assert heard(Track(), Track(solo=True), Track()) == [False, True, False]
    assert heard(Track(solo=True), Track(solo=True, muted=True), Track()) == [True, False, False]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("target", [-30.0, -23.0])
def test_a_mix_has_the_loudness_that_is_asked_for(channels: int, target: float) -> None:
    mix = mix_tracks(noise(channels=channels), RATE, loudness=target)
    assert mix.shape == (channels, 2 * RATE)
    assert pyloudnorm.Meter(RATE).integrated_loudness(mix.T.double().numpy()) == pytest.approx(target, abs=0.02)


def test_the_ceiling_goes_before_the_loudness() -> None:
    clicks = torch.zeros(1, 1, RATE)
    clicks[..., ::4000] = 0.1
    mix = mix_tracks(clicks, RATE, loudness=-10)
    assert 20 * math.log10(float(true_peak(mix, RATE).max())) == pytest.approx(CEILING, abs=0.01)
    assert float(programme_loudness(mix, RATE)) < -10
    assert not mix_tracks(torch.zeros(2, 2, 100), RATE, loudness=-23).any()  # silence stays silence


@pytest.mark.parametrize("scale", [0.5, 1e-42])
def test_what_has_no_loudness_is_left_as_it_is(scale: float) -> None:
    rumble = scale * torch.sin(math.pi * torch.arange(10 * RATE) / RATE)  # 0.5 Hz, below the meter's gate
    mix = mix_tracks(rumble[None, None], RATE, loudness=-23)
    np.testing.assert_array_equal(mix[0], rumble)


def test_more_than_memory_has_room_for_is_refused_before_it_is_made() -> None:
    sounds = torch.zeros(1, 2, 10).expand(256, -1, -1)
    said = "256 tracks of 600 s at 192000 Hz with 2 channels came, but at most 3 s are expected of so many"
    with pytest.raises(ValueError, match=said):
        arrange_tracks(sounds, 192_000, [Track(offset=600.0)] * 256)


def test_the_power_of_both_channels_adds_up() -> None:
    (mono,) = noise(rows=1, channels=1)
    same = mono.expand(2, -1)
    assert float(programme_loudness(same, RATE) - programme_loudness(mono, RATE)) == pytest.approx(3.0103, abs=1e-3)


def test_settings_that_make_no_sense_are_refused() -> None:
    for name in ("offset", "fade_in", "fade_out"):
        for value in (-0.1, 601.0, math.nan):
            with pytest.raises(ValueError, match=f"{name} is .*, but 0 to 600 seconds are expected"):
                Track(**{name: value})
    with pytest.raises(ValueError, match="gain is inf, but a finite number of dB is expected"):
        Track(gain=math.inf)
    with pytest.raises(ValueError, match="gain is 1000000, but a finite number of dB is expected, and at most 200"):
        Track(gain=1_000_000)
    with pytest.raises(ValueError, match="one number of dB per track is expected, each at most 200"):
        mix_tracks(torch.zeros(2, 1, 10), RATE, [0.0, 1e6])
    with pytest.raises(ValueError, match="There are 1 settings for 2 tracks, but one per track is expected"):
        arrange_tracks(torch.ones(2, 1, 10), RATE, [Track()])
    for loudness in (0.0, -61.0, math.nan):
        with pytest.raises(ValueError, match=r"loudness is .*, but -60 to -5 LUFS are expected"):
            mix_tracks(torch.ones(2, 1, 10), RATE, loudness=loudness)
