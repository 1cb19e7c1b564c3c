"""How loud sounds are, and sounds brought to one level, without clicks or clipping."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..utils.libraries import importing

# What `level` brings sounds to. -20 LUFS is the loudest whole number that 95 % of the starter's 79 recordings reach
# below the ceiling: their true peaks lie 6 to 27 LU above their loudness, 19 LU at the 95th percentile. The ceiling is
# EBU R 128's.
LOUDNESS = -20.0  # LUFS (ITU-R BS.1770)
CEILING = -1.0  # dBTP
ROUNDING = 1e-6  # of peaks that are computed in float32
MAX_GAIN = 24.0  # dB: what would need more is residue of the networks, which work at a peak of -6 dB
SILENCE = -50.0  # dB of the highest sample: nothing below is turned up at all,
GATE = -70.0  # LUFS: nor what is below BS.1770's absolute gate, whatever single samples it has
FADE_IN, CLICK = 0.002, 0.005  # seconds; no sound ends in a fade shorter than `CLICK`
# Unless asked otherwise, the last 0.3 s of a sound fade, of a short one the last tenth: the least with which every one
# of 23 starter sounds ends at less than half its loudness (docs/sounds.md).
FADE_OUT, FADE_SHARE = 0.3, 0.1
_BLOCK = 0.4  # seconds, BS.1770's gating block


def decibels(amplitude: Tensor) -> Tensor:
    """20 log10, -inf for zero."""
    return 20 * amplitude.log10()


def loudness(waveform: Tensor, rate: int) -> Tensor:
    """Integrated loudness of mono sounds [..., samples] -> [...] in LUFS, -inf for silence (ITU-R BS.1770-4).

    A sound shorter than one gating block (0.4 s) is measured as if it were repeated to fill it. The absolute gate is
    applied to the sound at a peak of 0.5, so that a quiet sound is measured like a loud one.
    """
    return programme_loudness(waveform[..., None, :], rate)


def programme_loudness(waveform: Tensor, rate: int) -> Tensor:
    """`loudness` of sounds of one or two channels [..., channels, samples] -> [...]: the channels' powers add up."""
    with importing("pyloudnorm"):
        import pyloudnorm

    rows = waveform.detach().double().cpu().reshape(-1, *waveform.shape[-2:])
    peaks = rows.abs().amax(dim=(1, 2))
    result = torch.full_like(peaks, -torch.inf)
    meter, block = pyloudnorm.Meter(rate, block_size=_BLOCK), math.ceil(_BLOCK * rate)
    for number, (row, peak) in enumerate(zip(rows, peaks, strict=True)):
        if peak > 0:
            half = (row * (0.5 / peak)).repeat(1, -(-block // row.shape[1])).T
            # Whole blocks only, as the standard has it: the meter would round, and end in half a block.
            steps = math.floor((len(half) / rate - _BLOCK) / (_BLOCK / 4) + 1e-9)
            half = half[: math.ceil((_BLOCK + steps * _BLOCK / 4) * rate - 1e-6)]
            result[number] = meter.integrated_loudness(half.numpy()) + decibels(peak / 0.5)
    return result.reshape(waveform.shape[:-2]).to(waveform.device, torch.float32)


def true_peak(waveform: Tensor, rate: int) -> Tensor:
    """Highest value between the samples too, [..., samples] -> [...] (BS.1770-4 annex 2: four times oversampled).

    The filter is a sinc of 12 samples under a Hann window, which ends at 99 % of the highest frequency.
    """
    with importing("scipy"):
        from scipy.signal import upfirdn

    times = 0.99 * np.arange(-24, 25) / 4  # in samples; the window is zero at 6
    taps = (0.99 * np.sinc(times) * np.cos(np.pi * times / 12) ** 2).astype(np.float32)
    rows = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1]).numpy()
    peaks = torch.tensor([float(np.abs(upfirdn(taps, row, up=4)).max()) for row in rows])
    return peaks.reshape(waveform.shape[:-1]).to(waveform.device)


def fades(samples: int, rate: int, fade_out: float | None = None) -> Tensor:
    """[samples] of gain: half a Hann window up at the start and down at the end, one between.

    Args:
        samples: length of the sound.
        rate: in Hz.
        fade_out: seconds of the one at the end, see `level`.

    Raises:
        ValueError: see `check_fade_out`.
    """
    check_fade_out(fade_out)
    seconds = samples / rate
    fade_out = min(FADE_OUT, FADE_SHARE * seconds) if fade_out is None else min(fade_out, seconds)
    first, last = (min(round(length * rate), samples // 2) for length in (FADE_IN, max(fade_out, CLICK)))
    return ramps(samples, first, last)


def ramps(samples: int, first: int, last: int) -> Tensor:
    """[samples] of gain: half a Hann window up over the `first` and down over the `last` of them, 1 between; where both
    are, they multiply.
    """
    gain = torch.ones(samples)
    for count, back in ((first, False), (last, True)):
        ramp = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(count) / max(count, 1))
        part = gain[samples - count :] if back else gain[:count]
        part *= ramp.flip(0) if back else ramp
    return gain


def check_fade_out(seconds: float | None) -> None:
    """Whether `level` takes this as its `fade_out`, to be asked before long work.

    Raises:
        ValueError: it is negative or not finite.
    """
    if seconds is not None and not 0 <= seconds < math.inf:
        raise ValueError(f"fade_out is {seconds}, but 0 seconds or more are expected; 0 is the shortest fade.")


def level(waveform: Tensor, rate: int, fade_out: float | None = None, *, loop: bool = False) -> Tensor:
    """Make sounds [..., samples] fit to be heard and mixed: equally loud, without DC, clicks at the ends or clipping.

    The mean is removed, both ends are faded, and one gain brings each row to `LOUDNESS`, or as near as the `CEILING`
    and `MAX_GAIN` allow. It is a gain and no limiter: the sound itself is not bent. Silence stays silence.

    Args:
        waveform: the sounds.
        rate: in Hz.
        fade_out: seconds in which the sound dies away at its end, `CLICK` at least and half of the sound at most;
            without it `FADE_OUT` or, of a short sound, the share `FADE_SHARE`.
        loop: the sounds' ends go on with their beginnings, and are not faded.

    Raises:
        ValueError: the waveform has no samples, or some that are not finite; `fade_out` is negative or not finite, or
            given for a loop.
    """
    if 0 in waveform.shape or not waveform.isfinite().all():
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but at least one sample and only finite ones are expected; "
            "check what made it."
        )
    waveform = waveform.float()
    if loop and fade_out is not None:
        raise ValueError(f"fade_out is {fade_out} for a loop, which does not end; leave it out, or do not make a loop.")
    gain = torch.ones(waveform.shape[-1]) if loop else fades(waveform.shape[-1], rate, fade_out)
    gain = gain.to(waveform.device)
    # This mean makes that of the faded sound zero.
    mean = (waveform * gain).sum(dim=-1, keepdim=True) / gain.sum().clamp(min=1e-6)
    faded = (waveform - mean) * gain
    room = CEILING - decibels(true_peak(faded, rate))
    integrated = loudness(faded, rate)
    raised = torch.minimum(LOUDNESS - integrated, room).clamp(max=MAX_GAIN)
    silent = (decibels(faded.abs().amax(dim=-1)) < SILENCE) | (integrated < GATE)
    return faded * 10 ** (raised.masked_fill(silent, 0.0) / 20)[..., None]


def under_ceiling(waveform: Tensor, rate: int) -> Tensor:
    """Sounds [..., samples] turned down alike, as far as the highest true peak of them passes the `CEILING`."""
    share = 10 ** (CEILING / 20) / true_peak(waveform, rate).max().clamp(min=1e-6)
    # A sound that `level` brought to the ceiling may be measured above it by rounding. Were all turned down by that,
    # the last bits of each would change whenever one of the others is made anew.
    return waveform * torch.where(share < 1 - ROUNDING, share, 1.0)
