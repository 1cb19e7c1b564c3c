"""Seamless loops: latents, spectrograms and waveforms whose end goes on with their beginning.

Time is a circle in every step, so nothing has to be cross-faded: the U-Net's convolutions are padded with the other
end, windows of long sounds lie on the circle, and VAE and vocoder see enough of the other end on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .multidiffusion import window_weights

if TYPE_CHECKING:
    from .diffusion import Denoiser

VAE_MARGIN = 20  # latent frames; the full-size decoder sees 17 on each side


class CircularTime(TorchFunctionMode):
    """Within this context `conv2d` pads the time axis, [B, C, T, F], with its other end instead of zeros.

    It holds for the current thread only and leaves modules as they are, which may be in use elsewhere.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pad first where the function is a convolution with padding."""
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        return _circular_conv2d(*args, **(kwargs or {}))


def _circular_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *rest: Any
) -> Tensor:
    time, pitch = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if time:
        input = torch.cat([input[:, :, -time:], input, input[:, :, :time]], dim=2)
    return torch.conv2d(input, weight, bias, stride, (0, pitch), *rest)


class CircularDenoiser:
    """The U-Net over latents whose end goes on with their beginning.

    Attention and norms have no order of time, and with convolutions on a circle nothing else has: latents that are
    rolled by the U-Net's stride are predicted as the same, rolled.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        """Noisy latents [B, C, T, F], a step, condition [B, N, D] -> an object with `.sample`."""
        with CircularTime():
            return self.denoiser(sample, timestep, encoder_hidden_states=encoder_hidden_states)  # type: ignore[no-any-return]


class WrappedDenoiser:
    """A denoiser in windows whose last one goes on into the first, where both predictions are cross-faded.

    That is MultiDiffusion's equation 5 for windows on a circle.
    """

    def __init__(self, denoiser: Denoiser, overlap: int):
        self.denoiser, self.overlap = denoiser, overlap

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        """Noisy latents [B, C, T, F] with T beyond the overlap, a step, condition [B, N, D] -> an object with
        `.sample`.
        """
        longer = torch.cat([sample, sample[:, :, : self.overlap]], dim=2)
        asked = self.denoiser(longer, timestep, encoder_hidden_states=encoder_hidden_states).sample
        share = window_weights(self.overlap * 2, self.overlap)[: self.overlap].to(asked)[:, None]
        beyond, within = asked[:, :, sample.shape[2] :], asked[:, :, : sample.shape[2]]
        first = torch.lerp(beyond, within[:, :, : self.overlap], share)
        return SimpleNamespace(sample=torch.cat([first, within[:, :, self.overlap :]], dim=2))


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

    Latents have a whole number of frames, some more than asked for. The pitch does not change.
    """
    places = mel.shape[1]
    if places == frames:
        return mel
    at = torch.arange(frames, dtype=torch.float64) * places / frames  # on the CPU: some devices have no float64
    before = at.floor().long()
    share = (at - before).to(mel)[:, None]
    return torch.lerp(mel[:, before % places], mel[:, (before + 1) % places], share)
