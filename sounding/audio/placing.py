"""Sounds placed where their objects are seen: left or right by a mask's centre, near or far by its size or a depth map.

A place is a cue and no measurement: an image does not tell how large a thing is, nor how wide the lens was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoders.patches import check_mask
from ..images.resize import resized

FARTHEST = 16.0  # distances, in units of the nearest one
NEAR_AREA = 0.25  # share of the image that something at distance 1 covers
HORIZON = 0.45  # of the image's height from the top: what stands on the ground ends below it
HEAD, SOUND = 0.0875, 343.0  # radius of a head in m; m/s
CUTOFF = 16_000.0  # Hz: the low-pass of something four times as far, at half strength
# Walls of a room as (axis, place in m from the listener's head): left, right, behind, floor, ceiling. Sounds are 2 m
# away in it, whatever their distance: what is far is quieter, but its reflections are not.
WALLS = ((0, -3.5), (0, 3.5), (1, -2.5), (2, -1.2), (2, 1.8))
METRES = 2.0


@dataclass(frozen=True)
class Place:
    """Where an object is seen."""

    pan: float  # -1 at the left edge of the image, 1 at the right one
    distance: float  # 1 is the nearest, 16 the farthest


@dataclass(frozen=True)
class Room:
    """How places are heard."""

    width: float = 1.0  # 0 leaves all in the middle, 1 puts the image's edges into one channel
    distance: float = 0.5  # 0 ignores it; 1 is 6 dB per doubling, as in the open
    delay: bool = False  # the far ear hears later, by up to 0.66 ms: for headphones
    reflections: float = 0.0  # of walls, floor and ceiling, 1 are hard walls

    def __post_init__(self) -> None:
        for name in ("width", "distance", "reflections"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # NaN is not within
                raise ValueError(f"{name} is {value}, but 0 to 1 is expected.")

    def pan(self, place: Place) -> float:
        """Of something there: -1 is the left channel alone, 1 the right one."""
        return place.pan * self.width

    def gain(self, place: Place) -> float:
        """By how much something there is quieter, as a factor."""
        return float(place.distance**-self.distance)


def places_of(masks: Tensor, depth: Tensor | None = None) -> list[Place | None]:
    """The place of each mask's object; None for a mask without any white, whose object is absent.

    Without a depth map the distance is the geometric mean of two cues: how small the object is (distance is inverse to
    its height and width, so to the root of its area), and how near its lower edge comes to the horizon, as on level
    ground. Objects above the horizon have the first cue alone.

    Args:
        masks: [B, H, W], 0..1.
        depth: [H, W] or [1 or B, H, W], 0..1, the nearest white, as depth estimators and ComfyUI's nodes give it: what
            they call depth is inverse, so that half as bright is twice as far. Any size.

    Raises:
        ValueError: not masks, or a depth map of another count.
    """
    masks = check_mask(masks)
    if depth is not None:
        depth = check_mask(depth).to(masks.device)
        if len(depth) not in (1, len(masks)):
            raise ValueError(
                f"depth has {len(depth)} maps for {len(masks)} masks, but one, or one per mask, is expected."
            )
        height, width = masks.shape[1:]
        depth = resized(depth[:, None], (height, width))[:, 0].expand(len(masks), -1, -1)
    return [_place(mask, None if depth is None else depth[row]) for row, mask in enumerate(masks)]


def _place(mask: Tensor, depth: Tensor | None) -> Place | None:
    total = float(mask.sum())
    if total <= 0:
        return None
    height, width = mask.shape
    columns = (torch.arange(width, device=mask.device) + 0.5) / width
    pan = 2 * float((mask.sum(dim=0) * columns).sum()) / total - 1
    if depth is not None:
        return Place(pan, _bounded(1 / max(float((mask * depth).sum()) / total, 1e-6)))
    small = math.sqrt(NEAR_AREA * height * width / total)
    rows = (mask > 0.5).any(dim=1).nonzero()
    bottom = (float(rows[-1]) + 1) / height if len(rows) else 0.0
    if bottom <= HORIZON:
        return Place(pan, _bounded(small))
    low = (1 - HORIZON) / (bottom - HORIZON)
    return Place(pan, _bounded(math.sqrt(_bounded(small) * _bounded(low))))


def _bounded(distance: float) -> float:
    return min(max(distance, 1.0), FARTHEST)


def place_tracks(
    waveform: Tensor,
    rate: int,
    places: Sequence[Place | None],
    room: Room | None = None,
    *,
    loop: bool = False,
) -> Tensor:
    """Sounds [B, 1 or 2, samples] to stereo [B, 2, samples], each at its place; what is absent is silent.

    Panning keeps the power (cosine and sine of the angle: -3 dB per channel in the middle). A distance is a gain and a
    low-pass of the first order, both gentle, and none at distance 1. Stereo sounds are made mono first, since a place
    is a point. The length stays: what rings on beyond the end, some ms, is cut.

    Args:
        waveform: the sounds.
        rate: in Hz.
        places: one per sound.
        room: how places are heard.
        loop: the sounds' ends go on with their beginnings, and what rings on beyond the end is heard there.

    Raises:
        ValueError: another number of places than sounds, or more than two channels.
    """
    room = room or Room()
    if waveform.ndim != 3 or waveform.shape[1] not in (1, 2) or 0 in waveform.shape:
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but [B, 1 or 2, samples] is expected; make it mono or stereo."
        )
    if len(places) != len(waveform):
        raise ValueError(
            f"There are {len(places)} masks for {len(waveform)} sounds, but one per sound is expected; give as many."
        )
    samples = waveform.shape[-1]
    # Responses are shorter than 0.1 s. A transform of the sound's own length is a convolution on a circle.
    size = samples if loop else 2 ** math.ceil(math.log2(samples + 0.1 * rate))
    frequencies = torch.fft.rfftfreq(size, 1 / rate, dtype=torch.float64)
    placed = torch.zeros(len(waveform), 2, samples, dtype=waveform.dtype)
    for row, place in enumerate(places):  # one after the other: spectra take some ten times the memory of a sound
        if place is not None:
            spectrum = torch.fft.rfft(waveform[row].cpu().double().mean(dim=0), size)  # some devices have no float64
            sound = torch.fft.irfft(spectrum * _response(place, room, frequencies), size)[..., :samples]
            placed[row] = sound.to(placed.dtype)
    return placed.to(waveform.device)


def _response(place: Place, room: Room, frequencies: Tensor) -> Tensor:
    """From the sound to both channels, by frequency: [2, F]."""
    far = place.distance**room.distance
    muffled = (1 + 1j * frequencies * (far - 1) / CUTOFF).reciprocal()
    pan = room.pan(place)
    response = _ears(pan, room.delay, frequencies) / far
    if room.reflections:
        angle = pan * math.pi / 2
        source = (METRES * math.sin(angle), METRES * math.cos(angle), 0.0)
        for axis, wall in WALLS:
            image = [2 * wall - at if n == axis else at for n, at in enumerate(source)]
            path = math.hypot(*image)
            later = torch.exp(-2j * math.pi * frequencies * (path - METRES) / SOUND)
            lateral = 2 / math.pi * math.asin(image[0] / path)
            response = response + room.reflections * METRES / path * later * _ears(lateral, room.delay, frequencies)
    return response * muffled


def _ears(pan: float, delay: bool, frequencies: Tensor) -> Tensor:
    """Both channels' gains [2, F] at a pan, and with `delay` the later arrival at the far ear (Woodworth's formula)."""
    angle = (1 + pan) * math.pi / 4
    gains = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.complex128)[:, None]
    gains = gains.expand(2, len(frequencies)).clone()
    if delay:
        lateral = abs(pan) * math.pi / 2
        seconds = HEAD / SOUND * (lateral + math.sin(lateral))
        gains[0 if pan > 0 else 1] *= torch.exp(-2j * math.pi * frequencies * seconds)
    return gains


def pan_over_time(waveform: Tensor, pan: Tensor) -> Tensor:
    """A mono sound [samples] that moves, by its pan from -1 to 1 at each sample -> [2, samples], at constant power."""
    angle = (1 + pan) * math.pi / 4
    return waveform * torch.stack([angle.cos(), angle.sin()])
