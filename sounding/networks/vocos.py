"""Vocos (Siuzdak 2023): ConvNeXt blocks at the spectrogram's frame rate, and an inverse STFT instead of upsampling.

The whole network runs at 100 frames per second where HiFi-GAN's widest convolutions run at thousands, so it takes a
fraction of the time for training and generation.

A spectrogram says how loud a noise is and not how it goes, so with `vocoder.noise` the network gets noise to make it
of, as vocoders trained by an energy distance do (Gritsenko et al. 2020, "A Spectral Energy Distance for Parallel Speech
Synthesis").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import AudioConfig, VocoderConfig

KERNEL = 7  # frames that a block sees
LOUDEST = 1e2  # of an STFT bin, so that a wild prediction stays a number
TURNS = 618.034  # of `dither` per unit of the log-mel; no small fraction, so that rounded spectrograms spread as well


def dither(mel: Tensor) -> Tensor:
    """Noise of unit variance, uniform, as large as a log-mel: the far digits of its numbers.

    So equal spectrograms make equal sounds, and windows, loops and items of a batch have the noise that the whole has,
    without a seed.
    """
    turned = mel.float() * TURNS
    return uniform(turned - turned.floor())


def uniform(values: Tensor) -> Tensor:
    """Numbers between 0 and 1 to zero mean and unit variance."""
    return (values - 0.5) * 12**0.5


class Block(nn.Module):
    """ConvNeXt (Liu et al. 2022) in one dimension: [B, W, T] -> [B, W, T]."""

    def __init__(self, width: int, hidden: int, share: float):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), share))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = self.norm(self.depthwise(x).transpose(1, 2))
        inner = self.scale * self.narrow(functional.gelu(self.widen(inner)))
        return x + inner.transpose(1, 2)


class Vocos(nn.Module):
    """Log-mel [B, T, bands] -> waveform [B, T * hop]."""

    mean: Tensor  # [bands] of the log-mels that it gets
    scale: Tensor  # [bands]
    window: Tensor  # [fft]

    def __init__(self, config: VocoderConfig, audio: AudioConfig):
        super().__init__()
        self.fft_size, self.hop = config.fft_size, audio.hop
        width = config.width
        self.register_buffer("mean", torch.zeros(audio.mel_bands))
        self.register_buffer("scale", torch.ones(audio.mel_bands))
        self.noise = config.noise
        bands = audio.mel_bands * (2 if config.noise else 1)
        # An even kernel gives one frame more than it gets: frames of the STFT lie on the borders of the mel's.
        self.conv_in = nn.Conv1d(bands, width, KERNEL + 1, padding=(KERNEL + 1) // 2)
        self.norm_in, self.norm_out = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, config.hidden, 1 / config.blocks) for _ in range(config.blocks))
        self.head = nn.Linear(width, config.fft_size + 2)
        self.register_buffer("window", torch.hann_window(config.fft_size), persistent=False)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv1d, nn.Linear)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """See the class.

        Args:
            mel: in float32, whatever the weights are in.
            noise: of unit variance, [B, T, bands]; by default `dither` of the log-mel.

        Returns:
            float32, since an STFT is.
        """
        given = (mel - self.mean.float()) / self.scale.float()
        if self.noise:
            given = torch.cat([given, dither(mel) if noise is None else noise], dim=-1)
        x = self.conv_in(given.to(self.head.weight.dtype).transpose(1, 2))
        x = self.norm_in(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        log_magnitude, phase = self.head(self.norm_out(x.transpose(1, 2))).float().transpose(1, 2).chunk(2, dim=1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=LOUDEST), phase)
        return torch.istft(
            spectrum, self.fft_size, self.hop, window=self.window.float(), length=mel.shape[1] * self.hop
        )
