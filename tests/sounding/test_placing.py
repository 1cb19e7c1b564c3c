"""Sounds placed by masks: closed forms of panning, distance, delay and reflections."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.audio.placing import CUTOFF, HEAD, HORIZON, METRES, SOUND, Place, Room, place_tracks, places_of

RATE = 48_000
PLAIN = Room(distance=0)


def mask(rows: slice, columns: slice, size: tuple[int, int] = (100, 200)) -> Tensor:
    white = torch.zeros(size)
    white[rows, columns] = 1
    return white


def impulse(samples: int = 4800, rows: int = 1) -> Tensor:
    waveform = torch.zeros(rows, 1, samples, dtype=torch.float64)
    waveform[..., 100] = 1
    return waveform


def seen(masks: Tensor, depth: Tensor | None = None) -> list[Place]:
    """Places of masks that all have some white."""
    places = places_of(masks, depth)
    return [place for place in places if place is not None]


def placed(place: Place, room: Room) -> np.ndarray:
    """What both channels have of an impulse: [2, samples]."""
    return place_tracks(impulse(), RATE, [place], room)[0].numpy()


def test_the_centre_of_a_mask_is_its_pan() -> None:
    masks = torch.stack([mask(slice(0, 10), slice(0, 20)), mask(slice(0, 10), slice(90, 110)), torch.zeros(100, 200)])
    left, middle, absent = places_of(masks)
    assert left is not None
    assert middle is not None
    assert absent is None
    assert left.pan == pytest.approx(-0.9)
    assert middle.pan == pytest.approx(0)
    # A soft mask counts by its weights: a third of the way from one end to the other.
    soft = torch.zeros(1, 10, 300)
    soft[..., 0], soft[..., 299] = 1.0, 0.5
    (found,) = seen(soft)
    assert found.pan == pytest.approx(2 * (0.5 + 0.5 * 299.5) / 1.5 / 300 - 1, abs=1e-6)


def test_small_and_high_objects_are_far() -> None:
    masks = torch.stack(
        [
            mask(slice(20, 100), slice(50, 150)),  # 40 % of the image, down to its lower edge
            mask(slice(50, 70), slice(95, 105)),  # 1 %, on the ground
            mask(slice(5, 25), slice(95, 105)),  # the same in the sky
            mask(slice(30, 31), slice(0, 1)),  # a single pixel
        ]
    )
    near, far, sky, speck = seen(masks)
    assert near.distance == 1
    assert far.distance == pytest.approx(math.sqrt(5 * (1 - HORIZON) / (0.7 - HORIZON)))
    assert sky.distance == pytest.approx(5)
    assert speck.distance == 16


def test_a_depth_map_decides_instead_half_as_bright_is_twice_as_far() -> None:
    masks = torch.stack([mask(slice(0, 50), slice(0, 50)), mask(slice(50, 100), slice(0, 200))])
    depth = torch.cat([torch.full((1, 25, 100), 0.25), torch.full((1, 25, 100), 0.5)], dim=1)  # of another size
    far, near = seen(masks, depth)
    assert near.distance == pytest.approx(2, rel=0.02)  # resized: the seam is soft
    assert far.distance == pytest.approx(4, rel=0.02)
    (black,) = seen(masks[:1], torch.zeros(1, 10, 10))
    assert black.distance == 16
    with pytest.raises(ValueError, match="depth has 3 maps for 2 masks, but one, or one per mask, is expected"):
        places_of(masks, torch.zeros(3, 10, 10))


@pytest.mark.parametrize("pan", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_panning_keeps_the_power_and_points_to_the_place(pan: float) -> None:
    waveform = torch.randn(1, 1, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (sound,) = place_tracks(waveform, RATE, [Place(pan, 9.0)], PLAIN)
    np.testing.assert_allclose(sound.pow(2).sum(dim=0), waveform[0, 0].pow(2), atol=1e-9)
    angle = math.pi / 4 * (1 + pan)
    np.testing.assert_allclose(sound[0], waveform[0, 0] * math.cos(angle), atol=1e-9)
    np.testing.assert_allclose(sound[1], waveform[0, 0] * math.sin(angle), atol=1e-9)
    (half,) = place_tracks(waveform, RATE, [Place(pan, 9.0)], Room(width=0.5, distance=0))
    np.testing.assert_allclose(half[0], waveform[0, 0] * math.cos(math.pi / 4 * (1 + pan / 2)), atol=1e-9)


@pytest.mark.parametrize(("distance", "strength"), [(1.0, 1.0), (2.0, 1.0), (4.0, 0.5), (16.0, 1.0)])
def test_what_is_far_is_quieter_and_duller(distance: float, strength: float) -> None:
    sound = placed(Place(0, distance), Room(distance=strength))
    far = distance**strength
    found = np.abs(np.fft.rfft(sound[0]))
    frequencies = np.fft.rfftfreq(sound.shape[1], 1 / RATE)
    expected = math.sqrt(0.5) / far / np.sqrt(1 + (frequencies * (far - 1) / CUTOFF) ** 2)
    below = frequencies < 0.9 * RATE / 2  # the last tenth has the edge of the band
    np.testing.assert_allclose(found[below], expected[below], rtol=0.03)
    assert np.abs(sound[:, :90]).max() < 0.02 * np.abs(sound).max()  # nothing comes before the sound


def test_the_far_ear_hears_later() -> None:
    sound = placed(Place(0.5, 1.0), Room(delay=True))
    lateral = math.pi / 4
    seconds = HEAD / SOUND * (lateral + math.sin(lateral))
    phases = np.unwrap(np.angle(np.fft.rfft(sound[0]) / np.fft.rfft(sound[1])))
    frequencies = np.fft.rfftfreq(sound.shape[1], 1 / RATE)
    below = frequencies < 0.9 * RATE / 2
    slope = np.polyfit(frequencies[below], phases[below], 1)[0] / (2 * math.pi)
    assert slope == pytest.approx(-seconds, rel=1e-3)
    assert seconds == pytest.approx(0.38e-3, abs=0.01e-3)
    # Straight ahead both hear it at once, and at the very side the far ear hears nothing.
    np.testing.assert_allclose(*placed(Place(0, 1.0), Room(delay=True)), atol=1e-9)
    assert np.abs(placed(Place(1, 1.0), Room(delay=True))[0]).max() < 1e-9


def test_reflections_come_from_the_walls_and_stay_where_the_sound_goes_far() -> None:
    dry, wet = (placed(Place(0, 1.0), Room(reflections=share)) for share in (0.0, 1.0))
    echoes = (wet - dry)[0]
    assert np.abs(echoes[:100]).max() < 1e-3 < np.abs(echoes).max()
    # Straight ahead: floor 1.2 m below, ceiling 1.8 m above, a wall 2.5 m behind, walls at 3.5 m on both sides.
    for path in (math.hypot(METRES, 2.4), math.hypot(METRES, 3.6), METRES + 5, math.hypot(7, METRES)):
        place = 100 + round((path - METRES) / SOUND * RATE)
        assert np.abs(echoes[place - 1 : place + 2]).max() > 0.5 * METRES / path * math.sqrt(0.5)
    far = placed(Place(0, 16.0), Room(distance=1.0, reflections=1.0)) - placed(Place(0, 16.0), Room(distance=1.0))
    near_ratio = np.abs(echoes.sum() / dry[0].sum())
    far_ratio = np.abs(far[0].sum() / placed(Place(0, 16.0), Room(distance=1.0))[0].sum())
    assert far_ratio == pytest.approx(16 * near_ratio, rel=1e-2)


def test_stereo_sounds_are_points_and_absent_ones_are_silent() -> None:
    waveform = torch.randn(2, 2, 1000, generator=torch.Generator().manual_seed(3))
    sound = place_tracks(waveform, RATE, [Place(0, 1.0), None])
    assert sound.shape == waveform.shape
    assert sound.dtype == torch.float32
    np.testing.assert_allclose(sound[0], (waveform[0].mean(dim=0) * math.sqrt(0.5)).expand(2, -1), atol=1e-6)
    assert sound[1].abs().max() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="There are 2 masks for 1 sounds, but one per sound is expected"):
        place_tracks(impulse(), RATE, [None, None])
    with pytest.raises(ValueError, match=r"waveform has shape \(1, 3, 10\), but \[B, 1 or 2, samples\] is expected"):
        place_tracks(torch.zeros(1, 3, 10), RATE, [None])
    for name in ("width", "distance", "reflections"):
        for value in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match=f"{name} is .*, but 0 to 1 is expected"):
                Room(**{name: value})
