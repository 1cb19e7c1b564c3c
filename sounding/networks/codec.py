"""Mel to latents and back, and mel to waveform: VAE and vocoder in windows, in a precision that holds their numbers.

Half precision is used where it holds, and float32 where it overflows.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import AudioConfig, VaeConfig
from ..multidiffusion import in_windows
from .vocos import Vocos

if TYPE_CHECKING:
    from transformers import SpeechT5HifiGan

logger = logging.getLogger(__name__)
Part = TypeVar("Part", bound=nn.Module)
PRECISE = ("vae", "vocoder")  # parts for which bfloat16 is too coarse
# The full-size vocoder has a receptive field of 25 frames on each side, so the frames that count are not affected by
# the windows' edges.
VOCODER_OVERLAP, VOCODER_MARGIN = 72, 32  # mel frames


def encode_mel(vae: Any, config: VaeConfig, mel: Tensor, window: int) -> Tensor:
    """Log-mel [B, T, 64] -> scaled latents [B, 8, T/4, 16], the mean of the VAE's posterior; `window` in mel frames."""
    normal = config.normal(mel).to(next(vae.parameters()).device)

    def means(part: Any) -> Tensor:  # [B, T/4, 8, 16]
        def piece(frames: Tensor) -> Tensor:
            return part.encode(frames.transpose(1, 2).to(part.dtype)).latent_dist.mean.transpose(1, 2)

        return in_windows(piece, normal.transpose(1, 2), window, window // 8)

    return in_range(without_bfloat16(vae), means).float().transpose(1, 2) * config.scale


def decode_latents(vae: Any, config: VaeConfig, latents: Tensor, window: int) -> Tensor:
    """Scaled latents [B, 8, T/4, 16] -> log-mel [B, T, 64]; `window` in mel frames."""
    scaled = (latents / config.scale).to(next(vae.parameters()).device)
    cells = window // config.stride

    def mel(part: Any) -> Tensor:  # [B, T, 1, 64] out of [B, T/4, 8, 16]
        def piece(frames: Tensor) -> Tensor:
            return part.decode(frames.transpose(1, 2).to(part.dtype)).sample.transpose(1, 2)

        return in_windows(piece, scaled.transpose(1, 2), cells, cells // 8)

    return config.log_mel(in_range(without_bfloat16(vae), mel).transpose(1, 2))


def vocode_mel(vocoder: Any, config: AudioConfig, mel: Tensor, window: int) -> Tensor:
    """Log-mel [B, T, 64] -> waveform [B, T * hop] float32; `window` in mel frames."""
    there = mel.to(next(vocoder.parameters()).device)

    def sounds(part: Any) -> Tensor:
        def piece(frames: Tensor) -> Tensor:  # odd upsampling rates add some samples at the end
            given = frames if isinstance(part, Vocos) else frames.to(part.dtype)
            return vocoded(part, given)[:, : frames.shape[1] * config.hop]

        return in_windows(piece, there, window, VOCODER_OVERLAP, margin=VOCODER_MARGIN)

    return in_range(without_bfloat16(vocoder), sounds).float()


def part_dtype(part: str, dtype: torch.dtype) -> torch.dtype:
    """The precision of a part where `dtype` is requested: VAE and vocoder get float32 instead of bfloat16.

    Its 8 bits of precision are an error of 1 in 256, which is audible as hiss: 19 dB below the starter's sounds, where
    float16 stays 41 dB below.
    """
    return torch.float32 if part in PRECISE and dtype == torch.bfloat16 else dtype


def without_bfloat16(part: Part) -> Part:
    """The part itself, or a float32 copy if somebody converted it to bfloat16 after all (see `part_dtype`)."""
    if next(part.parameters()).dtype != torch.bfloat16:
        return part
    return nn.Module.float(copy.deepcopy(part))


def in_range(part: Part, run: Callable[[Part], Tensor]) -> Tensor:
    """`run(part)`, repeated in float32 if the part is in float16 and its numbers overflowed.

    float16 ends at 65504. VAE and vocoder are trained in float32, and nothing bounds the sums inside their
    convolutions, so with some weights (SDXL's VAE is the well-known case) they exceed that number on the way to
    ordinary results, and infinities become NaN. These parts run once per sound and are small beside the U-Net, so
    float32 costs little. The part itself stays as it is, since it may belong to a host that manages memory.
    """
    made = run(part)
    if next(part.parameters()).dtype != torch.float16 or bool(made.isfinite().all()):
        return made
    logger.info("%s overflows in float16; computing it in float32", type(part).__name__)
    return run(nn.Module.float(copy.deepcopy(part)))


def vocoded(vocoder: SpeechT5HifiGan | Vocos, mel: Tensor) -> Tensor:
    """Log-mel [B, T, 64] -> waveform [B, T * hop], NaN where it overflowed.

    HiFi-GAN's last operation, tanh, turns infinity into 1, so its input is checked instead.
    """
    if isinstance(vocoder, Vocos):
        return cast(Tensor, vocoder(mel))
    loud: list[Tensor] = []
    with vocoder.conv_post.register_forward_hook(lambda module, inputs, output: loud.append(output.isfinite().all())):
        waveform = vocoder(mel)
    return torch.where(loud[0], waveform, torch.nan)
