"""One level for every sound: loudness, ceiling, ends, silence, and the mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio

from sounding.audio.loudness import CEILING, LOUDNESS, MAX_GAIN, fades, level, loudness, true_peak, under_ceiling
from sounding.audio.tracks import mix_tracks
from training.starter.evaluate.audio_quality import check_sound


def tone(seconds: float = 1.0, peak: float = 0.3, hertz: float = 997.0, rate: int = 16_000) -> torch.Tensor:
    return peak * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def test_loudness_of_the_standards_own_tone() -> None:
    """BS.1770 annex 1: a 997 Hz sine at full scale in one channel is at -3.01 LKFS."""
    assert loudness(tone(peak=1.0, rate=48_000), 48_000) == pytest.approx(-3.01, abs=0.05)
    for peak in (1.0, 0.1, 1e-4):  # and it follows the level, however quiet
        expected = -3.01 + 20 * math.log10(peak)
        assert loudness(tone(peak=peak), 16_000) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.4, 0.47, 2.56, 5.03])
def test_loudness_is_torchaudios(rate: int, seconds: float) -> None:
    """Both after BS.1770-4; lengths that end within a block too. The sounds stay below torchaudio's clipping."""
    time = torch.arange(round(seconds * rate)) / rate
    rows = torch.stack([0.1 * torch.randn(len(time)), 0.5 * torch.sin(2000 * time) * (time % 0.5 < 0.2)])
    rows = rows * (0.5 / rows.abs().amax(dim=1, keepdim=True))
    expected = torchaudio.functional.loudness(rows[:, None].double(), rate).float()
    torch.testing.assert_close(loudness(rows, rate), expected, atol=1e-3, rtol=0)


def test_true_peak_is_that_of_four_times_the_rate() -> None:
    """Against torchaudio's resampling; and a sine whose samples all miss its tops, by up to 3 dB at half of Nyquist."""
    rows = torch.randn(3, 4_000)
    expected = torchaudio.functional.resample(rows, 16_000, 64_000).abs().amax(dim=1)
    torch.testing.assert_close(true_peak(rows, 16_000), expected, rtol=1e-5, atol=0)
    sine = torch.sin(2 * math.pi * (torch.arange(1_600) / 4 + 0.125)) * torch.hann_window(1_600)
    assert sine.abs().max() == pytest.approx(math.sqrt(0.5), abs=0.01)
    assert true_peak(sine, 16_000) == pytest.approx(1, abs=0.02)


def test_pauses_do_not_count_as_quiet() -> None:
    """BS.1770's gates: half a sound, half silence is nearly as loud as the sound; its RMS would say 3 dB less."""
    sound = tone(2.0)
    paused = torch.cat([sound, torch.zeros(2 * 16_000)])
    assert loudness(paused, 16_000) == pytest.approx(float(loudness(sound, 16_000)), abs=0.6)


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.4, 3.0])
def test_leveled_sounds_are_equally_loud(seconds: float) -> None:
    """Whatever they were before; shorter than a gating block, a sound is measured as if repeated."""
    rows = torch.stack([0.02 * torch.randn(round(seconds * 16_000)), tone(seconds, 0.9), 0.3 + tone(seconds, 0.1)])
    leveled = level(rows[:, None], 16_000)
    assert leveled.shape == (3, 1, rows.shape[1])
    np.testing.assert_allclose(loudness(leveled[:, 0], 16_000), LOUDNESS, atol=0.05)
    np.testing.assert_allclose(leveled.mean(dim=-1), 0, atol=1e-7)
    assert (leveled[..., [0, -1]] == 0).all()
    for row, one in zip(rows, leveled[:, 0], strict=True):  # each row by itself
        torch.testing.assert_close(level(row, 16_000), one)


def test_level_takes_away_what_the_checks_complain_about() -> None:
    bad = 0.05 + 0.4 * torch.randn(16_000)
    bad[0], bad[-1] = 1.0, -1.0
    assert {finding.check.name for finding in check_sound(bad, 16_000)} >= {"click at the start", "DC offset", "peak"}
    assert check_sound(level(bad, 16_000), 16_000) == []


def test_sharp_sounds_stay_below_the_ceiling_unbent() -> None:
    """A few clicks have far more peak than loudness: the ceiling holds them, as one gain over all."""
    clicks = 1e-3 * torch.randn(32_000)
    clicks[5_000::9_000] += 0.7
    leveled = level(clicks, 16_000, fade_out=0)
    assert 20 * true_peak(leveled, 16_000).log10() == pytest.approx(CEILING, abs=0.01)
    assert loudness(leveled, 16_000) < LOUDNESS
    inside, gain = slice(100, -100), leveled.abs().max() / clicks.abs().max()
    torch.testing.assert_close(leveled[inside].diff(), gain * clicks[inside].diff(), rtol=1e-3, atol=1e-5)


def test_silence_stays_silence_and_residue_residue() -> None:
    assert torch.equal(level(torch.zeros(2, 1, 8_000), 16_000), torch.zeros(2, 1, 8_000))
    residue = 1e-4 * torch.randn(16_000)
    assert level(residue, 16_000).abs().max() <= 1.01 * residue.abs().max()
    residue[8_000] = 0.006  # a single sample is no sound, and makes none of what is around it
    assert level(residue, 16_000).abs().max() <= 1.01 * residue.abs().max()
    assert [finding.check.name for finding in check_sound(level(residue, 16_000), 16_000)] == ["silence"]
    quiet = tone(peak=0.005)  # above silence, but so low that only MAX_GAIN is given
    gained = level(quiet, 16_000).abs().max() / quiet.abs().max()
    assert 20 * gained.log10() == pytest.approx(MAX_GAIN, abs=0.01)


def test_fades_are_short_and_leave_attacks_alone() -> None:
    gain = fades(16_000, 16_000, fade_out=0)
    assert (gain != 1).sum() <= 0.0071 * 16_000
    assert gain[32:-80].eq(1).all()
    assert (gain[:33].diff() >= 0).all()
    assert (gain[-81:].diff() <= 0).all()
    attack = torch.zeros(16_000)
    attack[48:] = tone(1.0)[: 16_000 - 48]  # 3 ms in
    attack[-200:] = 0
    leveled = level(attack, 16_000)
    silence = leveled[40]  # the mean that was removed
    torch.testing.assert_close(
        (leveled[48:200] - silence) / (leveled[8_000:8_100] - silence).abs().max(),
        attack[48:200] / attack[8_000:8_100].abs().max(),
        atol=1e-3,
        rtol=0,
    )
    assert fades(3, 16_000).shape == (3,)


@pytest.mark.parametrize(
    ("seconds", "asked", "expected"), [(5, None, 0.3), (1, None, 0.1), (5, 1.5, 1.5), (1, 60, 0.5)]
)
def test_sounds_die_away(seconds: float, asked: float | None, expected: float) -> None:
    """The fade has the length asked for, and leaves what comes before alone; at its middle half is left (-6 dB)."""
    steady = torch.ones(seconds * 16_000)
    gain = fades(len(steady), 16_000, asked)
    length = round(expected * 16_000)
    assert (gain[32 : len(gain) - length] == 1).all()
    assert gain[-length // 2] == pytest.approx(0.5, abs=1e-3)
    assert gain[-1] == 0
    assert (gain[-length:].diff() <= 0).all()


def test_a_steady_sound_ends_at_less_than_half_its_loudness() -> None:
    """The last 100 ms against the whole: 10 dB less is half as loud (Stevens' sone). A cut ends at full level."""
    noise = torch.randn(5 * 16_000)
    for fade_out, low, high in ((None, -math.inf, -10), (0.0, -1, 1)):
        leveled = level(noise, 16_000, fade_out)
        end = 10 * (leveled[-1600:].square().mean() / leveled.square().mean()).log10()
        assert low < end < high


@pytest.mark.parametrize("fade_out", [-0.1, math.inf, math.nan])
def test_impossible_fades_are_refused(fade_out: float) -> None:
    with pytest.raises(ValueError, match="0 seconds or more are expected"):
        level(torch.ones(100), 16_000, fade_out)


def test_gains_keep_their_meaning_in_a_mix() -> None:
    tracks = level(torch.stack([tone(peak=0.9, hertz=500), tone(peak=0.01, hertz=3000)])[:, None], 16_000)
    mixed = mix_tracks(tracks, 16_000, [0.0, -6.0])
    spectrum = torch.fft.rfft(mixed[0]).abs()
    alone = torch.fft.rfft(tracks[:, 0]).abs()
    for number, (bin, gain) in enumerate([(500, 0.0), (3000, -6.0)]):
        assert 20 * (spectrum[bin] / alone[number, bin]).log10() == pytest.approx(gain, abs=0.01)


def test_a_sound_at_the_ceiling_leaves_those_beside_it_as_they_are() -> None:
    """Its peak is measured a little above or below, by rounding."""
    generator = torch.Generator().manual_seed(0)
    other = 0.1 * torch.randn(1, 1, 16_000, generator=generator)
    for _ in range(4):
        sharp = 0.01 * torch.randn(1, 1, 16_000, generator=generator)
        sharp[..., ::4000] = 0.9
        both = torch.cat([level(sharp, 16_000), other])
        assert float(true_peak(both[0], 16_000)) == pytest.approx(10 ** (CEILING / 20), rel=1e-6)
        assert torch.equal(under_ceiling(both, 16_000), both)


def test_a_loud_mix_is_turned_down_as_a_whole() -> None:
    tracks = torch.stack([tone(peak=0.9), tone(peak=0.9)])[:, None]
    mixed = mix_tracks(tracks, 16_000)
    assert mixed.shape == (1, 16_000)
    assert 20 * true_peak(mixed, 16_000).log10() == pytest.approx(CEILING, abs=0.01)
    quiet = 0.01 * tracks
    torch.testing.assert_close(mix_tracks(quiet, 16_000), quiet.sum(dim=0))
    for gains in ([1.0], [0.0, math.inf]):
        with pytest.raises(ValueError, match="one number of dB per track is expected"):
            mix_tracks(tracks, 16_000, gains)


@pytest.mark.parametrize("sound", [torch.zeros(1, 0), torch.full((1, 10), torch.nan)])
def test_level_refuses_what_is_no_sound(sound: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least one sample and only finite ones"):
        level(sound, 16_000)
