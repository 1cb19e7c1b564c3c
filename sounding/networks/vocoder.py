"""HiFi-GAN's generator (Kong et al. 2020): mel to waveform (section 3.1, "Waveform reconstruction")."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from ..config import SoundingConfig
from .blocks import Network

SLOPE = 0.1  # of leaky ReLUs
DEVIATION = 0.01  # of initial weights


class Vocoder(Network):
    """Mel [B, T, 64] -> waveform [B, T * hop].

    Weights and numbers are those of `transformers.SpeechT5HifiGan`. The class is our own because importing
    transformers takes longer than making a sound.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: SoundingConfig):
        super().__init__()
        vocoder, bands, width = config.vocoder, config.audio.mel_bands, config.vocoder.initial_channels
        self.normalize, self.branches = vocoder.normalize, len(vocoder.kernels)
        self.conv_pre = nn.Conv1d(bands, width, 7, padding=3)
        self.upsampler, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(vocoder.rates, vocoder.rate_kernels, strict=True):
            self.upsampler.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2))
            width //= 2
        for number in range(len(vocoder.rates)):
            channels = vocoder.initial_channels // 2 ** (number + 1)
            for kernel in vocoder.kernels:
                self.resblocks.append(ResidualBlock(channels, kernel, vocoder.dilations))
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        for layer in self._layers():
            nn.init.normal_(layer.weight, std=DEVIATION)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def _layers(self) -> list[nn.Conv1d | nn.ConvTranspose1d]:
        return [layer for layer in self.modules() if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))]

    def apply_weight_norm(self) -> None:
        """Let training learn lengths and directions of weights apart (Salimans and Kingma 2016)."""
        for layer in self._layers():
            parametrizations.weight_norm(layer)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, T, 64] -> [B, T * hop]."""
        if self.normalize:
            mel = (mel - self.mean) / self.scale
        maps = self.conv_pre(mel.transpose(2, 1))
        for number, upsample in enumerate(self.upsampler):
            maps = upsample(functional.leaky_relu(maps, SLOPE))
            first = number * self.branches
            total = self.resblocks[first](maps)
            for branch in range(first + 1, first + self.branches):
                total += self.resblocks[branch](maps)
            maps = total / self.branches
        waveform = torch.tanh(self.conv_post(functional.leaky_relu(maps)))
        return waveform.squeeze(1)


class ResidualBlock(nn.Module):
    """Pairs of convolutions of one kernel, the first of each dilated, around which the input is added."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2) for _ in dilations)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, width, samples] -> the same."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            inside = dilated(functional.leaky_relu(maps, SLOPE))
            maps = plain(functional.leaky_relu(inside, SLOPE)) + maps
        return maps
