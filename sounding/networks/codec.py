"""Sound to latents and back: VAE and vocoder in windows, and in a precision that holds their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..config import AudioConfig, VaeConfig
from ..grounding import Condition
from ..multidiffusion import in_windows
from .overflow import in_range, vocoded, without_bfloat16

# The full size's vocoder looks 25 frames around itself, so what counts does not notice the windows.
VOCODER_OVERLAP, VOCODER_MARGIN = 72, 32  # mel frames


@dataclass(frozen=True)
class Sound:
    """What a model made of selections in pictures: one row each."""

    waveform: Tensor  # [B, 1, samples] float32
    mel: Tensor  # [B, T, 64], the natural log of it as the VAE gave it, before the waveform was leveled
    condition: Condition  # one row a selection, which may have been made to sound several times
    sample_rate: int

    @property
    def sureness(self) -> Tensor:
        """How sure the model is of what it makes heard, one number a selection: [B], see `Condition`."""
        return self.condition.sureness


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
        def piece(frames: Tensor) -> Tensor:  # an odd rate adds some samples at the end
            return vocoded(part, frames.to(part.dtype))[:, : frames.shape[1] * config.hop]

        return in_windows(piece, there, window, VOCODER_OVERLAP, margin=VOCODER_MARGIN)

    return in_range(without_bfloat16(vocoder), sounds).float()
