"""What people complain about in generated sounds, measured: clicks, DC, clipping, silence, level.

`check_sound` says what is wrong with one sound; `CHECKS` says how each figure is defined, where its limits come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sounding.audio.loudness import CEILING, GATE, LOUDNESS, decibels, loudness, true_peak


@dataclass(frozen=True)
class Check:
    """One figure, and the range it should be in."""

    name: str
    unit: str
    low: float
    high: float
    definition: str
    source: str


@dataclass(frozen=True)
class Finding:
    """A figure out of its range."""

    check: Check
    value: float

    def __str__(self) -> str:
        check = self.check
        limit = f"at most {check.high:g}" if self.value > check.high else f"at least {check.low:g}"
        return f"{check.name}: {self.value:.4g} {check.unit}, but {limit} is expected ({check.definition})"


_EDGE = "the floor that training recordings are trimmed at: 40 dB below the peak counts as silence"
_CHECKS = (
    Check("silence", "LUFS", GATE, math.inf, "loudness of the whole", "absolute gate of ITU-R BS.1770-4"),
    Check("click at the start", "dB", -math.inf, -40.0, "first sample, the step out of silence, to the peak", _EDGE),
    Check("click at the end", "dB", -math.inf, -40.0, "last sample, the step into silence, to the peak", _EDGE),
    Check(
        "DC offset", "dB", -math.inf, -40.0, "mean of the samples, to the peak", "a mean steps at both ends: as above"
    ),
    Check(
        "clipping",
        "runs",
        0,
        0,
        "runs of 3 and more samples at one highest or lowest value",
        "Audacity's Find Clipping, whose threshold is 3 samples; here also below full scale, if turned down later",
    ),
    Check(
        "peak",
        "dBTP",
        -24.0,
        CEILING + 0.1,
        "highest value, four times oversampled",
        "EBU R 128's maximum with its meters' tolerance; below, 18 dB under the training level",
    ),
    Check(
        "loudness",
        "LUFS",
        LOUDNESS - 10,
        LOUDNESS + 10,
        "integrated loudness (ITU-R BS.1770-4)",
        "10 LU around the level the pipeline aims at: half and twice as loud to the ear (Stevens' sone)",
    ),
)
CHECKS = {check.name: check for check in _CHECKS}


def measure_sound(waveform: Tensor, rate: int) -> dict[str, float]:
    """Every figure of a sound [samples] at `rate` Hz, by its name in `CHECKS`; what silence has none of is left out.

    Raises:
        ValueError: not [samples] with at least one sample, all of them finite.
    """
    if waveform.ndim != 1 or not len(waveform) or not waveform.isfinite().all():
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but finite [samples] of one sound is expected; "
            "check one item of a batch at a time."
        )
    waveform = waveform.detach().float().cpu()
    integrated = float(loudness(waveform, rate))
    if integrated < GATE:
        return {"silence": integrated}
    peak = waveform.abs().max()
    return {
        "silence": integrated,
        "click at the start": float(decibels(waveform[0].abs() / peak)),
        "click at the end": float(decibels(waveform[-1].abs() / peak)),
        "DC offset": float(decibels(waveform.double().mean().abs() / peak)),
        "clipping": float(_flat_runs(waveform)),
        "peak": float(decibels(true_peak(waveform, rate))),
        "loudness": integrated,
    }


def check_sound(waveform: Tensor, rate: int) -> list[Finding]:
    """What is wrong with a sound [samples] at `rate` Hz: the figures of `measure_sound` that are out of their range.

    Raises:
        ValueError: not [samples] with at least one sample, all of them finite.
    """
    figures = measure_sound(waveform, rate)
    return [
        Finding(CHECKS[name], value)
        for name, value in figures.items()
        if not CHECKS[name].low <= value <= CHECKS[name].high
    ]


def _flat_runs(waveform: Tensor, shortest: int = 3) -> int:
    """Runs of `shortest` and more samples at the highest, or at the lowest, value of [samples]."""
    runs = 0
    for signed in (waveform, -waveform):
        top = signed.max()
        if top <= 0:
            continue
        flat = (signed >= top * (1 - 2e-5)).int()  # a saturated tanh comes near, but not quite together
        edges = torch.diff(torch.nn.functional.pad(flat, (1, 1)))
        lengths = (edges == -1).nonzero() - (edges == 1).nonzero()
        runs += int((lengths >= shortest).sum())
    return runs
