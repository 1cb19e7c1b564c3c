"""Discriminators: HiFi-GAN's over waveforms, a PatchGAN over mels, and the losses of both sides.

Kong et al. 2020, "HiFi-GAN", section 2.3 and appendix A (sizes as in its published code, 41.1 M and 29.6 M
parameters); Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", section 3.2.2.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ..engine.objective import Critic, Features

PERIODS = (2, 3, 5, 7, 11)
SCALES = 3


class LeastSquaresCritic(Critic):
    """A critic with HiFi-GAN's losses."""

    def critic_loss(self, real: Features, made: Features) -> Tensor:
        """See `critic_loss`."""
        return critic_loss(real, made)

    def objective_losses(self, real: Features, made: Features) -> dict[str, Tensor]:
        """See `adversarial_loss` and `feature_matching`."""
        return {"adversarial": adversarial_loss(made), "matching": feature_matching(real, made)}


class WaveformCritic(LeastSquaresCritic):
    """HiFi-GAN's multi-period (2, 3, 5, 7, 11) and multi-scale (x1, x1/2, x1/4) discriminators.

    `channels` scales all widths: 1 is the published size (70.7 M parameters), 1/16 suits small vocoders.
    """

    def __init__(self, channels: float = 1.0):
        super().__init__()
        self.periods = nn.ModuleList(_PeriodCritic(period, channels) for period in PERIODS)
        # Spectral norm on the raw sound only, as published: there weight norm does not train stably.
        self.scales = nn.ModuleList(_ScaleCritic(channels, spectral=scale == 0) for scale in range(SCALES))

    def forward(self, x: Tensor) -> Features:
        """Waveforms [B, samples] -> maps of five periods [B, C, T, period] and of three scales [B, C, T].

        Raises:
            ValueError: not [B, samples], or shorter than the longest period.
        """
        if x.ndim != 2 or x.shape[1] < max(PERIODS):
            raise ValueError(
                f"The critic got waveforms of shape {tuple(x.shape)}, but [B, samples] with {max(PERIODS)} samples "
                "or more is expected; give longer crops without a channel axis."
            )
        sound = x[:, None]
        maps: Features = [critic(sound) for critic in self.periods]
        for scale, critic in enumerate(self.scales):
            if scale:
                sound = functional.avg_pool1d(sound, 4, 2, padding=2)
            maps.append(critic(sound))
        return maps


class MelCritic(LeastSquaresCritic):
    """PatchGAN over mels: every score sees a patch of time and frequency (70 x 70 cells for 3 layers).

    Norms are instance norms (batch norm at batch size 1, as Isola et al. train), so that an item's score does not
    depend on what else is in its batch or on the number of processes. `channels` scales the widths of 64 to 512.
    """

    def __init__(self, channels: float = 1.0, layers: int = 3):
        super().__init__()
        self.least = 3 * 2**layers  # fewer cells leave nothing for the last two layers
        widths = [_scaled(64 * min(2**layer, 8), channels) for layer in range(layers + 1)]
        blocks = [nn.Sequential(nn.Conv2d(1, widths[0], 4, 2, padding=1), nn.LeakyReLU(0.2))]
        for layer, (narrow, wide) in enumerate(pairwise(widths), start=1):
            conv = nn.Conv2d(narrow, wide, 4, 2 if layer < layers else 1, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.InstanceNorm2d(wide, affine=True), nn.LeakyReLU(0.2)))
        self.blocks = nn.ModuleList([*blocks, nn.Conv2d(widths[-1], 1, 4, 1, padding=1)])

    def forward(self, x: Tensor) -> Features:
        """Mels [B, 1, T, F] -> one list of maps [B, C, t, f].

        Raises:
            ValueError: not [B, 1, T, F], or smaller than a patch needs.
        """
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < self.least:
            raise ValueError(
                f"The critic got mels of shape {tuple(x.shape)}, but [B, 1, T, F] with {self.least} frames and bands "
                "or more is expected; give longer crops or fewer layers."
            )
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [maps]


def critic_loss(real_maps: Features, made_maps: Features) -> Tensor:
    """Least squares: real sounds shall score 1, made ones 0 (HiFi-GAN equation 1).

    Sub-discriminators are summed (equation 7), all else is the mean over elements: batches of equal crops have
    the mean of their items' losses, however they are divided over processes.
    """
    pairs = zip(real_maps, made_maps, strict=True)
    return _total([(1 - real[-1].float()).square().mean() + made[-1].float().square().mean() for real, made in pairs])


def adversarial_loss(made_maps: Features) -> Tensor:
    """Least squares on the generator's side: made sounds shall score 1 (equation 2), summed as in `critic_loss`."""
    return _total([(1 - made[-1].float()).square().mean() for made in made_maps])


def feature_matching(real_maps: Features, made_maps: Features) -> Tensor:
    """L1 between the maps of real and made sounds (equation 4), summed over layers and sub-discriminators.

    The score counts as a map, as in the published code. No gradient reaches the real side.
    """
    layers = [
        (made.float() - real.detach().float()).abs().mean()
        for real_layers, made_layers in zip(real_maps, made_maps, strict=True)
        for real, made in zip(real_layers, made_layers, strict=True)
    ]
    return _total(layers)


class _PeriodCritic(nn.Module):
    """Sees every `period`-th sample: the sound folded to [B, 1, T, period], convolved in time only."""

    def __init__(self, period: int, channels: float):
        super().__init__()
        self.period = period
        widths = [1, *(_scaled(width, channels) for width in (32, 128, 512, 1024, 1024))]
        strides = (3, 3, 3, 3, 1)
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (5, 1), (stride, 1), padding=(2, 0)))
            for (narrow, wide), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, sound: Tensor) -> list[Tensor]:
        missing = -sound.shape[-1] % self.period
        folded = functional.pad(sound, (0, missing), mode="reflect").unflatten(-1, (-1, self.period))
        return _through(self.convolutions, self.score, folded)


class _ScaleCritic(nn.Module):
    """Sees the sound itself through wide grouped convolutions: [B, 1, T]."""

    def __init__(self, channels: float, *, spectral: bool):
        super().__init__()
        norm = spectral_norm if spectral else weight_norm
        widths = [1, *(_scaled(width, channels) for width in (128, 128, 256, 512, 1024, 1024, 1024))]
        kernels, strides, groups = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1), (1, 4, 16, 16, 16, 16, 1)
        self.convolutions = nn.ModuleList(
            # Narrow copies have as many groups as their widths divide by.
            norm(nn.Conv1d(narrow, wide, kernel, stride, kernel // 2, groups=math.gcd(parts, narrow, wide)))
            for (narrow, wide), kernel, stride, parts in zip(pairwise(widths), kernels, strides, groups, strict=True)
        )
        self.score = norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, sound: Tensor) -> list[Tensor]:
        return _through(self.convolutions, self.score, sound)


def _through(convolutions: nn.ModuleList, score: nn.Module, x: Tensor) -> list[Tensor]:
    """The maps behind each layer, and the score."""
    maps = []
    for convolution in convolutions:
        x = functional.leaky_relu(convolution(x), 0.1)
        maps.append(x)
    return [*maps, score(x)]


def _scaled(width: int, channels: float) -> int:
    return max(1, round(width * channels))


def _total(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum()
