"""Intensity over time: keyframes, or an object's size in a video, as the gain of a sound."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..encoders.patches import check_mask
from ..utils.messages import printable

MAX_TIME = 3600.0  # seconds
MAX_GAIN = 16.0  # 24 dB
MAX_KEYFRAMES = 10_000
FRAME_RATES = (0.1, 240.0)  # per second
FORM = "write seconds and gains such as 0:0, 1.5:1, 4:0.2"
Keyframes = list[tuple[float, float]]


def read_curve(text: str) -> Keyframes:
    """Keyframes out of a text: `0:0, 1.5:1, 4:0.2` is silence at 0 s, the full level at 1.5 s, a fifth at 4 s.

    They come in any order and may be separated by commas, semicolons or line breaks.

    Raises:
        ValueError: none, too many, two at one time, or something that is no keyframe.
    """
    entries = [entry for entry in re.split(r"[,;\s]+", re.sub(r"\s*:\s*", ":", text.strip())) if entry]
    if not 0 < len(entries) <= MAX_KEYFRAMES:
        raise ValueError(f"There are {len(entries)} keyframes, but 1 to {MAX_KEYFRAMES} are expected; {FORM}.")
    keyframes = {}
    for entry in entries:
        try:
            time, gain = (float(part) for part in entry.split(":"))
        except ValueError:
            raise ValueError(f"{printable(entry[:40])!r} is no keyframe; {FORM}.") from None
        if not 0 <= time <= MAX_TIME or not 0 <= gain <= MAX_GAIN:
            raise ValueError(
                f"A keyframe is {gain:g} at {time:g} s, but gains of 0 to {MAX_GAIN:g} at 0 to {MAX_TIME:g} s are "
                f"expected; {FORM}."
            )
        if time in keyframes:
            raise ValueError(f"There are two keyframes at {time:g} s, but one is expected; leave one of them out.")
        keyframes[time] = gain
    return sorted(keyframes.items())


def curve_of_masks(masks: Tensor, frame_rate: float) -> Keyframes:
    """Keyframes of an object in a video, from its masks [frames, H, W] 0..1, white on the object.

    The gain is inverse to the distance, and this to the root of the share of the image that is covered; it is 1 where
    the object is largest. Where a mask is empty, the object is absent: 0. A frame counts at its middle.

    Raises:
        ValueError: not masks, or a frame rate out of `FRAME_RATES`.
    """
    masks = check_mask(masks)
    low, high = FRAME_RATES
    if not low <= frame_rate <= high:
        raise ValueError(f"The frame rate is {frame_rate}, but {low:g} to {high:g} frames per second are expected.")
    shares = masks.double().cpu().mean(dim=(1, 2))
    gains = (shares / shares.max().clamp(min=1e-12)).sqrt().tolist()
    return [((number + 0.5) / frame_rate, gain) for number, gain in enumerate(gains)]


def curve_gain(keyframes: Sequence[tuple[float, float]], samples: int, rate: int, *, loop: bool = False) -> Tensor:
    """[samples] of gain: linear between keyframes, constant before the first and after the last.

    With `loop` it goes on from the last keyframe to the first, over the sound's end.

    Raises:
        ValueError: no keyframes, or one that is negative or not finite.
    """
    if not keyframes or not all(math.isfinite(time) and 0 <= gain < math.inf for time, gain in keyframes):
        raise ValueError(
            f"The keyframes are {keyframes!r:.200}, but one or more of finite numbers are expected; {FORM}."
        )
    times, gains = np.array(keyframes, dtype=np.float64).T
    if loop:  # those beyond the end of a loop would be somewhere else on the circle
        inside = times < samples / rate
        times, gains = (times[inside], gains[inside]) if inside.any() else (times[:1] * 0, gains[:1])
    found = np.interp(np.arange(samples) / rate, times, gains, period=samples / rate if loop else None)
    return torch.from_numpy(found).float()


def with_curve(waveform: Tensor, rate: int, keyframes: Sequence[tuple[float, float]], *, loop: bool = False) -> Tensor:
    """Sounds [..., samples] with the curve's gain; where it is 0, they are silent. See `curve_gain`."""
    return waveform * curve_gain(keyframes, waveform.shape[-1], rate, loop=loop).to(waveform)
