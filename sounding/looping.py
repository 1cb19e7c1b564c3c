"""Seamless loops: latents, spectrograms and waveforms whose end goes on with their beginning.

Time is a circle in every step. The sampler sees it from another place on at each time of the noise schedule, so that no
place is always at a border; VAE and vocoder see enough of the other end on both sides. Nothing is cross-faded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .diffusion import Denoiser

SHARED = 16  # latent frames (0.64 s) at both ends of what the U-Net sees that are the same place, a multiple of strides
VAE_MARGIN = 20  # latent frames that a full-size decoder sees on each side are 17


class LoopDenoiser:
    """A denoiser for latents whose end goes on with their beginning.

    The latents are cut open at a place that depends on the timestep alone, so an item does not depend on its batch, and
    go on beyond their end with their first `SHARED` frames; the two predictions of those are cross-faded
    (MultiDiffusion's equation 5, for windows that lie on a circle).
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        """Noisy latents [B, C, T, F], a step, condition [B, N, D] -> an object with `.sample`."""
        frames = sample.shape[2]
        first = random.Random(int(timestep)).randrange(frames)
        there = (first + torch.arange(frames + SHARED, device=sample.device)) % frames
        asked = self.denoiser(sample[:, :, there], timestep, encoder_hidden_states=encoder_hidden_states).sample
        weights = torch.ones(frames + SHARED, device=sample.device)
        weights[:SHARED] = (torch.arange(SHARED, device=sample.device) + 0.5) / SHARED
        weights[frames:] -= weights[:SHARED]
        shape = (1, 1, -1, 1)
        total = torch.zeros_like(sample, dtype=torch.float32)
        total.index_add_(2, there, asked.float() * weights.view(shape))
        return SimpleNamespace(sample=total.to(asked.dtype))


def around(function: Callable[[Tensor], Tensor], values: Tensor, margin: int, axis: int = 1) -> Tensor:
    """`function` of values with T places along `axis`, [B, ..., T, ...] -> [B, T * k, ...], as if they were a circle.

    Args:
        function: makes k places (axis 1) of each.
        values: what it gets, with `margin` more places of the other end on each side.
        margin: places, the receptive field of `function`.
        axis: of time in `values`.
    """
    places = values.shape[axis]
    there = torch.arange(-margin, places + margin, device=values.device) % places
    made = function(values.index_select(axis, there))
    share = made.shape[1] // len(there)
    return made[:, margin * share : (margin + places) * share]


def stretched(mel: Tensor, frames: int) -> Tensor:
    """A loop's spectrogram [B, T, bands] at another tempo -> [B, frames, bands], linear between its frames.

    Latents have a whole number of frames, some more than asked for; pitch does not change.
    """
    places = mel.shape[1]
    if places == frames:
        return mel
    at = torch.arange(frames, device=mel.device, dtype=torch.float64) * places / frames
    before = at.floor().long()
    share = (at - before).to(mel.dtype)[:, None]
    return torch.lerp(mel[:, before % places], mel[:, (before + 1) % places], share)
