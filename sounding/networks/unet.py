"""AudioLDM's U-Net: predicts the noise in latents, under a condition (section 4.1)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import SoundingConfig
from .blocks import Downsample, Network, Output, ResnetBlock, SpatialTransformer, Upsample

EPS = 1e-5  # of group norms


class UNet(Network):
    """Noise predictor over [B, 8, T/4, 16], cross-attending to the condition [B, N, D] (section 4.1).

    With `film_width` it is AudioLDM's own: the condition is added to the time's embedding (FiLM), and the second
    attention of each block attends to the latents themselves.

    Weights and numbers are those of `diffusers.UNet2DConditionModel`, see `blocks`.
    """

    def __init__(self, config: SoundingConfig):
        super().__init__()
        unet, latents = config.unet, config.vae.latent_channels
        channels, groups = unet.channels, unet.norm_groups
        self.layers, self.film_width = unet.layers, unet.film_width
        time = channels[0] * 4
        heads = unet.heads or tuple(width // unet.head_width for width in channels)

        def shared(number: int) -> dict[str, Any]:
            """What all blocks of a stage share."""
            return {
                "width": channels[number],
                "heads": heads[number],
                "context_width": channels[number] if self.film_width else config.grounding.condition_width,
                "groups": groups,
                "time_width": 2 * time if self.film_width else time,
            }

        self.conv_in = nn.Conv2d(latents, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time)
        if self.film_width:
            self.class_embedding = nn.Linear(self.film_width, time)
        stages, last = range(len(channels)), len(channels) - 1
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for number in stages:
            inputs = [channels[max(number - 1, 0)], *([channels[number]] * (unet.layers - 1))]
            self.down_blocks.append(DownStage(inputs, **shared(number), attends=number > 0, smaller=number < last))
        self.mid_block = MiddleStage(**shared(last))
        for number in reversed(stages):
            same = [channels[number]] * unet.layers
            given, kept = [channels[min(number + 1, last)], *same], [*same, channels[max(number - 1, 0)]]
            inputs = [sum(pair) for pair in zip(given, kept, strict=True)]
            self.up_blocks.append(UpStage(inputs, **shared(number), attends=number > 0, larger=number > 0))
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=EPS)
        self.conv_out = nn.Conv2d(channels[0], latents, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor) -> Output:
        """Noisy latents [B, C, T, F], a time or one per row [B], condition [B, N, D] -> the noise (or v) in them.

        Raises:
            ValueError: more than one token of a condition for FiLM.
        """
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = self.time_embedding(sinusoids(times, self.conv_in.out_channels).to(sample.dtype))
        context: Tensor | None = encoder_hidden_states
        if self.film_width:
            if encoder_hidden_states.shape[1] != 1:
                raise ValueError(
                    f"The condition has {encoder_hidden_states.shape[1]} tokens, but a U-Net with FiLM takes 1; mix "
                    "the sounds of several selections instead."
                )
            film = self.class_embedding(encoder_hidden_states[:, 0]).to(sample.dtype)
            time, context = torch.cat([time, film], dim=-1), None
        maps = self.conv_in(sample)
        skips = [maps]
        for down in self.down_blocks:
            maps, made = down(maps, time, context)
            skips += made
        maps = self.mid_block(maps, time, context)
        for up in self.up_blocks:
            taken = [skips.pop() for _ in range(self.layers + 1)]
            maps = up(maps, taken, time, context, skips[-1].shape[-2:] if skips else None)
        return Output(self.conv_out(functional.silu(self.conv_norm_out(maps))))


def sinusoids(times: Tensor, width: int) -> Tensor:
    """Times [B] as cosines and sines of `width // 2` frequencies each, from 1 down to 1e-4: [B, width] float32."""
    half = width // 2
    exponents = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=times.device) / half
    angles = times[:, None].float() * torch.exp(exponents)[None]
    return functional.pad(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Two layers over a time's sinusoids."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sinusoids: Tensor) -> Tensor:
        """[B, inputs] -> [B, width]."""
        return cast(Tensor, self.linear_2(functional.silu(self.linear_1(sinusoids))))


class Stage(nn.Module):
    """Residual blocks of one resolution, with or without attention after each."""

    def __init__(
        self,
        inputs: list[int],
        *,
        width: int,
        heads: int,
        context_width: int,
        groups: int,
        time_width: int,
        attends: bool = True,
    ):
        """Make the blocks.

        Args:
            inputs: channels that each residual block gets.
            width: channels that each gives.
            heads: of attention.
            context_width: of the condition's tokens.
            groups: of group norms.
            time_width: of the time's embedding.
            attends: whether there is attention.
        """
        super().__init__()
        resnets, attentions = [], []
        for channels in inputs:
            resnets.append(ResnetBlock(channels, width, groups=groups, eps=EPS, time_width=time_width))
            if attends:
                attentions.append(SpatialTransformer(width, heads, context_width, groups=groups))
        if attends:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        self.attends = attends

    def block(self, number: int, maps: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Residual block `number` and its attention."""
        maps = self.resnets[number](maps, time)
        return cast(Tensor, self.attentions[number](maps, context)) if self.attends else maps


class DownStage(Stage):
    """A stage on the way down, which keeps what its blocks give for the way up."""

    def __init__(self, inputs: list[int], *, smaller: bool, **shared: Any):
        super().__init__(inputs, **shared)
        self.downsamplers = nn.ModuleList([Downsample(shared["width"], even=True)] if smaller else [])

    def forward(self, maps: Tensor, time: Tensor, context: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Maps, and all that were made on the way."""
        made = []
        for number in range(len(self.resnets)):
            maps = self.block(number, maps, time, context)
            made.append(maps)
        for downsample in self.downsamplers:
            maps = downsample(maps)
            made.append(maps)
        return maps, made


class MiddleStage(Stage):
    """A residual block, attention, and another residual block."""

    def __init__(self, *, width: int, **shared: Any):
        super().__init__([width], width=width, **shared)
        groups, time_width = shared["groups"], shared["time_width"]
        self.resnets.append(ResnetBlock(width, width, groups=groups, eps=EPS, time_width=time_width))

    def forward(self, maps: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """[B, width, h, w] -> the same."""
        return cast(Tensor, self.resnets[1](self.block(0, maps, time, context), time))


class UpStage(Stage):
    """A stage on the way up, which takes what the stage of its size kept on the way down."""

    def __init__(self, inputs: list[int], *, larger: bool, **shared: Any):
        super().__init__(inputs, **shared)
        self.upsamplers = nn.ModuleList([Upsample(shared["width"])] if larger else [])

    def forward(
        self, maps: Tensor, skips: list[Tensor], time: Tensor, context: Tensor | None, size: torch.Size | None
    ) -> Tensor:
        """Maps and one kept map per residual block -> maps, of `size` if they are made larger."""
        for number, skip in enumerate(skips):
            maps = self.block(number, torch.cat([maps, skip], dim=1), time, context)
        for upsample in self.upsamplers:
            maps = upsample(maps, size)
        return maps
