"""An object's way through a video: when it is seen, its size and place, and the gain and pan that they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sounding.audio.motion import FADE, Motion, Sight, sight_of
from sounding.audio.placing import pan_over_time, places_of

RATE = 1000


def motion(shares: list[float], frame_rate: float = 10.0, pans: list[float] | None = None) -> Motion:
    return Motion(
        [Sight(share, pan) for share, pan in zip(shares, pans or [0.0] * len(shares), strict=True)], frame_rate
    )


def test_a_sight_is_the_share_and_the_centre_of_what_is_half_white() -> None:
    mask = torch.full((20, 40), 0.02)  # black as videos have it
    assert sight_of(mask) == Sight(0.0, 0.0)
    mask[5:15, 30:38] = torch.rand(10, 8) * 0.4 + 0.6
    seen = sight_of(mask)
    assert seen.share == pytest.approx(80 / 800)
    (place,) = places_of((mask > 0.5).float()[None])
    assert place is not None
    assert seen.pan == pytest.approx(place.pan)


def test_runs_are_times_in_which_an_object_is_seen() -> None:
    way = motion([0, 1, 1, 0, 0, 0, 1, 0, 1, 0])
    assert way.runs(0.1) == [(1, 3), (6, 7), (8, 9)]  # one frame at 10 per second is not less than 0.1 s
    assert way.runs(0.3) == [(1, 3), (6, 9)]
    assert way.runs(0.31) == [(1, 9)]
    assert motion([1, 0, 1], 1.0).runs(0.1) == [(0, 1), (2, 3)]
    assert motion([1] * 3 + [0] * 5 + [1], 60.0).runs(0.1) == [(0, 9)]  # lost by the tracker
    assert motion([1] * 3 + [0] * 6 + [1], 60.0).runs(0.1) == [(0, 3), (9, 10)]
    assert motion([0, 0]).runs(1.0) == []


@pytest.mark.parametrize("frame_rate", [1.0, 12.5, 29.97, 60.0])
def test_absence_is_silence_and_comes_without_a_click(frame_rate: float) -> None:
    count = round(6 * frame_rate)
    first, last = round(2 * frame_rate), round(4 * frame_rate)
    gain = motion([0.2 * (first <= frame < last) for frame in range(count)], frame_rate).gain(6 * RATE, RATE)
    start, end = round(first / frame_rate * RATE), round(last / frame_rate * RATE)
    assert not gain[:start].any()
    assert not gain[end:].any()
    fade = round(FADE * RATE)
    torch.testing.assert_close(gain[start + fade : end - fade], torch.ones(end - start - 2 * fade))
    assert gain.diff().abs().max() < 1.6 / fade  # half a Hann window, which is at most pi / 2 as steep as a line


def test_gain_is_the_root_of_the_share_and_may_be_ignored() -> None:
    shares = [0.01 + 0.09 * frame / 99 for frame in range(100)]
    way = motion(shares, 25.0)
    middle = slice(500, 3500)
    expected = torch.from_numpy(np.interp(np.arange(4 * RATE) / RATE, (np.arange(100) + 0.5) / 25, shares)).sqrt()
    expected = (expected / max(shares) ** 0.5).float()
    torch.testing.assert_close(way.gain(4 * RATE, RATE)[middle], expected[middle], atol=5e-3, rtol=0)
    torch.testing.assert_close(way.gain(4 * RATE, RATE, 0.5)[middle], expected[middle].sqrt(), atol=5e-3, rtol=0)
    assert (way.gain(4 * RATE, RATE, 0.0)[middle] == 1).all()


def test_sizes_and_places_do_not_tremble_or_jump() -> None:
    shares = [0.1 if frame % 2 else 0.0001 for frame in range(120)]  # another outline in every other frame
    gain = motion(shares, 60.0).gain(2 * RATE, RATE)[500:1500]
    assert gain.max() - gain.min() < 0.01
    pan = motion([0.1] * 60, 30.0, [-1.0] * 30 + [1.0] * 30).pan(2 * RATE, RATE)
    assert pan.diff().abs().max() < 0.01
    torch.testing.assert_close(pan[[500, 1500]], torch.tensor([-1.0, 1.0]), atol=1e-3, rtol=0)


def test_a_lost_frame_leaves_no_hole() -> None:
    gain = motion([0.1] * 20 + [0.0] * 3 + [0.1] * 20, 60.0, [0.5] * 43).gain(700, RATE)
    torch.testing.assert_close(gain[200:500], torch.ones(300))


def test_pan_over_time_keeps_the_power() -> None:
    pan = torch.linspace(-1, 1, 101)
    left, right = pan_over_time(torch.ones(101), pan)
    torch.testing.assert_close(left**2 + right**2, torch.ones(101))
    assert (left.diff() < 0).all()
    torch.testing.assert_close(
        torch.stack([left, right])[:, [0, 50, 100]], torch.tensor([[1, 0.5**0.5, 0], [0, 0.5**0.5, 1]])
    )
