"""Long sounds in overlapping windows over time, blended: MultiDiffusion (Bar-Tal et al. 2023).

A network's memory grows with the length of its input. Beyond the length of one window the U-Net predicts the noise of
overlapping windows, and predictions are averaged where they overlap. VAE and vocoder work window by window as well, so
that memory does not grow with the sound.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .diffusion import Denoiser


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Starts of windows that cover `length`: neighbours share at least `overlap`, and the last window ends at the end.

    Raises:
        ValueError: `overlap` is not smaller than the window.
    """
    hop = window - overlap
    if hop < 1:
        raise ValueError(f"overlap is {overlap} in windows of {window}, but less is expected; take half a window.")
    return [*range(0, max(0, length - window), hop), max(0, length - window)]


def window_weights(window: int, overlap: int, margin: int = 0, *, first: bool = False, last: bool = False) -> Tensor:
    """[window]: 1, falling to 0 over both overlaps, 0 in the outermost `margin`; it stays 1 at a sound's own ends."""
    places = torch.arange(window)
    ramp = ((torch.minimum(places, window - 1 - places) + 1 - margin) / (overlap - 2 * margin + 1)).clamp(0, 1)
    if first:
        ramp[: window // 2] = 1
    if last:
        ramp[window // 2 :] = 1
    return ramp


def blend(parts: list[Tensor], starts: list[int], overlap: int, margin: int = 0) -> Tensor:
    """The weighted mean of parts [B, window, ...] that begin at `starts`: [B, length, ...] float32.

    It is the closed form of MultiDiffusion's equation 5, the result that is nearest to those of all windows. The
    weights fall towards a window's edges, where it has the least context.
    """
    window = parts[0].shape[1]
    trailing = [1] * (parts[0].ndim - 2)
    total = parts[0].new_zeros(len(parts[0]), starts[-1] + window, *parts[0].shape[2:], dtype=torch.float32)
    shares = total.new_zeros(total.shape[1], *trailing)
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        weights = window_weights(window, overlap, margin, first=number == 0, last=number == len(parts) - 1)
        weights = weights.to(total).view(-1, *trailing)
        total[:, start : start + window] += part.float() * weights
        shares[start : start + window] += weights
    return total / shares


class WindowedDenoiser:
    """A denoiser for latents of any length that runs another one on `window` frames at a time.

    A deterministic sampler's step is affine in the predicted noise, so averaging predictions is the same as averaging
    the steps of the windows.
    """

    def __init__(self, denoiser: Denoiser, window: int, overlap: int):
        self.denoiser, self.window, self.overlap = denoiser, window, overlap

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        """Noisy latents [B, C, T, F], a step, condition [B, N, D], or one per window [B, W, N, D] -> an object with
        `.sample`.
        """
        windows = iter(encoder_hidden_states.unbind(dim=1) if encoder_hidden_states.ndim == 4 else ())

        def ask(part: Tensor) -> Tensor:  # [B, window, C, F]
            condition = next(windows, encoder_hidden_states)
            return self.denoiser(part.transpose(1, 2), timestep, encoder_hidden_states=condition).sample.transpose(1, 2)

        asked = in_windows(ask, sample.transpose(1, 2), self.window, self.overlap)
        return SimpleNamespace(sample=asked.transpose(1, 2).to(sample.dtype))


def in_windows(
    function: Callable[[Tensor], Tensor], values: Tensor, window: int, overlap: int, margin: int = 0
) -> Tensor:
    """`function` of [B, T, ...] -> [B, T * k, ...], window by window where T is longer than one.

    Args:
        window: its length in T; where k is below 1, windows, overlaps and T have to be multiples of 1 / k.
        margin: how much of each side of a window is discarded, the receptive field of `function`.
    """
    if values.shape[1] <= window:
        return function(values)
    starts = window_starts(values.shape[1], window, overlap)
    parts = [function(values[:, start : start + window]) for start in starts]
    made = parts[0].shape[1]
    places = [start * made // window for start in starts]
    return blend(parts, places, overlap * made // window, margin * made // window)
