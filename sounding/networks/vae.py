"""AudioLDM's VAE: mel to latents and back (section 3.1, "Mel-spectrograms compression")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import SoundingConfig
from .blocks import Downsample, MapAttention, Network, Output, ResnetBlock, Upsample

EPS = 1e-6  # of group norms


class Posterior:
    """A diagonal Gaussian over latents: `mean`, `std`, `var` and the logarithm of that, each [B, 8, T/4, 16]."""

    def __init__(self, parameters: Tensor):
        """Split the encoder's output [B, 16, T/4, 16] into means and logarithms of variances (-30 to 20)."""
        self.mean, logarithms = parameters.chunk(2, dim=1)
        self.logvar = logarithms.clamp(-30.0, 20.0)
        self.std, self.var = torch.exp(0.5 * self.logvar), torch.exp(self.logvar)


@dataclass(frozen=True)
class Encoded:
    """What the encoder gives, by the name that diffusers has for it."""

    latent_dist: Posterior


class Vae(Network):
    """Mel [B, 1, T, 64] <-> latents [B, 8, T/4, 16].

    Weights and numbers are those of `diffusers.AutoencoderKL`, see `blocks`.
    """

    def __init__(self, config: SoundingConfig):
        super().__init__()
        vae = config.vae
        sizes = vae.channels, vae.layers, vae.norm_groups
        self.encoder = Encoder(*sizes, outputs=2 * vae.latent_channels)
        self.decoder = Decoder(*sizes, inputs=vae.latent_channels)
        self.quant_conv = nn.Conv2d(2 * vae.latent_channels, 2 * vae.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(vae.latent_channels, vae.latent_channels, 1)

    def encode(self, mel: Tensor) -> Encoded:
        """[B, 1, T, 64] -> the posterior over latents, not scaled."""
        return Encoded(Posterior(self.quant_conv(self.encoder(mel))))

    def decode(self, latents: Tensor) -> Output:
        """[B, 8, T/4, 16], not scaled -> mel [B, 1, T, 64]."""
        return Output(self.decoder(self.post_quant_conv(latents)))


class Encoder(nn.Module):
    """Mel to the posterior's parameters."""

    def __init__(self, channels: tuple[int, ...], layers: int, groups: int, outputs: int):
        super().__init__()
        self.conv_in = nn.Conv2d(1, channels[0], 3, padding=1)
        last = len(channels) - 1
        self.down_blocks = nn.ModuleList(
            Stage([channels[max(number - 1, 0)], *([width] * (layers - 1))], width, groups, down=number < last)
            for number, width in enumerate(channels)
        )
        self.mid_block = MiddleStage(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=EPS)
        self.conv_out = nn.Conv2d(channels[-1], outputs, 3, padding=1)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, 1, T, 64] -> [B, outputs, T/4, 16]."""
        maps = self.conv_in(mel)
        for stage in self.down_blocks:
            maps = stage(maps)
        return cast(Tensor, self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(maps)))))


class Decoder(nn.Module):
    """Latents to mel."""

    def __init__(self, channels: tuple[int, ...], layers: int, groups: int, inputs: int):
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, channels[-1], 3, padding=1)
        self.up_blocks = nn.ModuleList()
        self.mid_block = MiddleStage(channels[-1], groups)
        for number in reversed(range(len(channels))):
            width, before = channels[number], channels[min(number + 1, len(channels) - 1)]
            self.up_blocks.append(Stage([before, *([width] * layers)], width, groups, up=number > 0))
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=EPS)
        self.conv_out = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, inputs, T/4, 16] -> [B, 1, T, 64]."""
        maps = self.mid_block(self.conv_in(latents))
        for stage in self.up_blocks:
            maps = stage(maps)
        return cast(Tensor, self.conv_out(functional.silu(self.conv_norm_out(maps))))


class Stage(nn.Module):
    """Residual blocks of one resolution, and then half or double the size."""

    def __init__(self, inputs: list[int], width: int, groups: int, *, down: bool = False, up: bool = False):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(each, width, groups=groups, eps=EPS) for each in inputs)
        if down:
            self.downsamplers = nn.ModuleList([Downsample(width, even=False)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample(width)])

    def forward(self, maps: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, width, ...]."""
        for layers in self.children():
            for layer in cast(nn.ModuleList, layers):
                maps = layer(maps)
        return maps


class MiddleStage(nn.Module):
    """A residual block, attention, and another residual block."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        first = ResnetBlock(width, width, groups=groups, eps=EPS)
        self.attentions = nn.ModuleList([MapAttention(width, groups=groups, eps=EPS)])
        self.resnets = nn.ModuleList([first, ResnetBlock(width, width, groups=groups, eps=EPS)])

    def forward(self, maps: Tensor) -> Tensor:
        """[B, width, h, w] -> the same."""
        return cast(Tensor, self.resnets[1](self.attentions[0](self.resnets[0](maps))))
