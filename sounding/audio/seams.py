"""Seams: whether a sound goes on across a place as it does elsewhere, such as a loop where its end meets its beginning.

A place is judged by the sound itself: what changes there is compared with what changes from window to window within.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW = 0.05  # seconds of the windows on both sides of a place
BANDS = 32  # of equal width, up to half the sampling rate
NEAR = 2  # samples on both sides of a place in which a click is seen
FLOOR = -60.0  # dB to the loudest band or window of the sound: what is below is taken for silence


@dataclass(frozen=True)
class Change:
    """How much a sound changes at a place, and at all borders of windows within that no window of that place reaches.

    Those borders are whole windows away, so that all lie alike in the frames that a vocoder makes its samples of.
    """

    level: float  # dB between the windows before and after
    spectrum: float  # dB, the mean difference of the bands of both windows, each at its own level
    click: float  # dB of the second difference of the samples to its root mean square over the sound
    levels: Tensor  # [places] within
    spectra: Tensor
    clicks: Tensor

    @property
    def ranks(self) -> tuple[float, float, float]:
        """The share of places within that change less, by level, spectrum and click: 0.5 is like any other place."""
        pairs = ((self.level, self.levels), (self.spectrum, self.spectra), (self.click, self.clicks))
        level, spectrum, click = (
            float((inside < at).double().mean() + (inside == at).double().mean() / 2) for at, inside in pairs
        )
        return level, spectrum, click

    @property
    def smooth(self) -> bool:
        """Whether none of the three is larger than the largest within."""
        return (
            self.level <= float(self.levels.max())
            and self.spectrum <= float(self.spectra.max())
            and self.click <= float(self.clicks.max())
        )


def change_at(waveform: Tensor, rate: int, place: int, *, loop: bool = False, others: Sequence[int] = ()) -> Change:
    """What changes in a sound [samples] at sample `place`, beside what changes within.

    Args:
        waveform: one sound.
        rate: in Hz.
        place: the first sample after the place; 0 for the seam of a loop.
        loop: whether the sound's end goes on with its beginning.
        others: further places that are left out of those within.

    Raises:
        ValueError: the sound has too few windows on both sides, or is silent.
    """
    size = round(WINDOW * rate)
    sound = waveform.detach().double().cpu()
    samples = len(sound)
    if sound.ndim != 1 or samples < 8 * size or not sound.any() or not sound.isfinite().all():
        raise ValueError(
            f"waveform has shape {tuple(waveform.shape)}, but one sound [samples] of at least {8 * WINDOW:g} s that is "
            "not silent is expected."
        )
    if not (loop or size <= place <= samples - size):
        raise ValueError(f"place is {place}, but {size} to {samples - size} is expected, a window from both ends.")
    borders = _borders(samples, size, place, loop)
    levels, spectra = _windows(sound, borders, size)
    clicks = _bends(sound, loop)[(borders[:, None] + torch.arange(-NEAR, NEAR)) % samples].amax(dim=1)
    kept = torch.ones(len(borders), dtype=torch.bool)
    for other in (place, *others):
        apart = (borders - other).abs()
        apart = torch.minimum(apart, samples - apart) if loop else apart
        kept &= apart > size
    at = int((borders == place).nonzero()[0])
    return Change(
        float(levels[at]),
        float(spectra[at]),
        float(clicks[at]),
        levels[kept],
        spectra[kept],
        clicks[kept],
    )


def _borders(samples: int, size: int, place: int, loop: bool) -> Tensor:
    """Samples between windows of `size`, `place` among them."""
    if loop:
        return (place + torch.arange(0, samples - size + 1, size)) % samples
    return torch.arange(size + (place - size) % size, samples - size + 1, size)


def _windows(sound: Tensor, borders: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Differences of level and of spectrum between the windows before and after each border, in dB."""
    places = torch.arange(size)
    windows = [sound[(borders[:, None] + shift + places) % len(sound)] for shift in (-size, 0)]
    hann = torch.hann_window(size, periodic=False, dtype=sound.dtype)
    powers = []
    for window in windows:
        power = torch.fft.rfft(window * hann).abs().square()[:, 1:]
        powers.append(torch.stack([band.sum(dim=1) for band in power.tensor_split(BANDS, dim=1)], dim=1))
    loudest = max(float(power.max()) for power in powers)
    bands = [10 * (power / loudest).clamp(min=10 ** (FLOOR / 10)).log10() for power in powers]
    means = [window.square().mean(dim=1) for window in windows]
    loudest = max(float(mean.max()) for mean in means)
    before, after = (10 * (mean / loudest).clamp(min=10 ** (FLOOR / 10)).log10() for mean in means)
    return (before - after).abs(), (bands[0] - bands[1]).abs().mean(dim=1)


def _bends(sound: Tensor, loop: bool) -> Tensor:
    """The second difference at each sample in dB to its root mean square; at the ends of no loop it is the least."""
    bends = sound.roll(1) - 2 * sound + sound.roll(-1)
    if not loop:
        bends[[0, -1]] = 0
    return 20 * (bends.abs() / bends.square().mean().sqrt()).clamp(min=1e-12).log10()
