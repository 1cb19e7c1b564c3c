"""Several sounds as one: when each begins, how loud it is, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .loudness import programme_loudness, ramps, under_ceiling

MAX_OFFSET = 600.0  # seconds
LOUDNESS_RANGE = (-60.0, -5.0)  # LUFS that a mix may be brought to
MAX_GAIN = 200.0  # dB; far beyond, silence times infinity is no number
MAX_VALUES = 2**28  # samples of all channels of all tracks: 1 GiB, several of which a mix takes


@dataclass(frozen=True)
class Track:
    """What becomes of a sound in a mix."""

    gain: float = 0.0  # dB
    offset: float = 0.0  # seconds after which it begins
    fade_in: float = 0.0  # seconds, half a Hann window
    fade_out: float = 0.0
    muted: bool = False
    solo: bool = False  # where one track is solo, those that are not are silent

    def __post_init__(self) -> None:
        if not -math.inf < self.gain <= MAX_GAIN:
            raise ValueError(
                f"gain is {self.gain}, but a finite number of dB is expected, and at most {MAX_GAIN:g} of them."
            )
        for name in ("offset", "fade_in", "fade_out"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_OFFSET:
                raise ValueError(f"{name} is {value}, but 0 to {MAX_OFFSET:g} seconds are expected.")


def arrange_tracks(tracks: Tensor, rate: int, settings: Sequence[Track]) -> Tensor:
    """Sounds [B, channels, samples] with their gains, fades and offsets -> [B, channels, samples of the longest].

    Raises:
        ValueError: not one setting per track, or too many samples.
    """
    if len(settings) != len(tracks):
        raise ValueError(
            f"There are {len(settings)} settings for {len(tracks)} tracks, but one per track is expected; give as many."
        )
    solo = any(each.solo for each in settings)
    starts = [round(each.offset * rate) for each in settings]
    samples = tracks.shape[-1]
    longest = samples + max(starts, default=0)
    check_length(len(tracks), tracks.shape[1], longest, rate)
    arranged = tracks.new_zeros(*tracks.shape[:-1], longest)
    for number, (each, start) in enumerate(zip(settings, starts, strict=True)):
        if each.muted or (solo and not each.solo):
            continue
        sound = tracks[number] * 10 ** (torch.tensor(each.gain, device=tracks.device) / 20)
        if each.fade_in or each.fade_out:
            first, last = (min(round(seconds * rate), samples) for seconds in (each.fade_in, each.fade_out))
            sound = sound * ramps(samples, first, last).to(sound)
        arranged[number, :, start : start + samples] = sound
    return arranged


def check_length(tracks: int, channels: int, samples: int, rate: int) -> None:
    """Whether so many tracks of so many samples fit into memory, to be asked before they are made.

    Raises:
        ValueError: they have more than `MAX_VALUES` in all.
    """
    if tracks * channels * samples > MAX_VALUES:
        raise ValueError(
            f"{tracks} tracks of {samples / rate:.0f} s at {rate} Hz with {channels} channels came, but at most "
            f"{MAX_VALUES / (tracks * channels * rate):.0f} s are expected of so many; give fewer or shorter sounds, "
            "earlier offsets, or a lower sample rate."
        )


def mix_tracks(tracks: Tensor, rate: int, gains: list[float] | None = None, loudness: float | None = None) -> Tensor:
    """Sum tracks [B, channels, samples], each moved by its gain in dB -> [channels, samples].

    Tracks that are leveled keep the balance that the gains ask for; the sum is turned down as a whole where it would
    pass the `CEILING`.

    Args:
        tracks: the sounds.
        rate: in Hz.
        gains: dB per track.
        loudness: what the sum is brought to, in LUFS, as far as the `CEILING` allows; without it, it is left as it is.
            What has no loudness, silence or a rumble below all that is heard, stays as it is.

    Raises:
        ValueError: not one finite gain per track, one above `MAX_GAIN`, or a loudness out of `LOUDNESS_RANGE`.
    """
    gains = [0.0] * len(tracks) if gains is None else gains
    if len(gains) != len(tracks) or not all(-math.inf < gain <= MAX_GAIN for gain in gains):
        raise ValueError(
            f"gains are {gains} for {len(tracks)} tracks, but one number of dB per track is expected, each at most "
            f"{MAX_GAIN:g}."
        )
    check_loudness(loudness)
    factors = 10 ** (torch.tensor(gains, device=tracks.device) / 20)
    total = (tracks * factors[:, None, None]).sum(dim=0)
    if loudness is not None and (measured := float(programme_loudness(total, rate))) > -MAX_GAIN:
        total = total * 10 ** ((loudness - measured) / 20)
    return under_ceiling(total, rate)


def check_loudness(loudness: float | None) -> None:
    """Whether a mix can be brought to this, to be asked before long work.

    Raises:
        ValueError: it is out of `LOUDNESS_RANGE`.
    """
    low, high = LOUDNESS_RANGE
    if loudness is not None and not low <= loudness <= high:
        raise ValueError(f"loudness is {loudness}, but {low:g} to {high:g} LUFS are expected, such as -23.")
