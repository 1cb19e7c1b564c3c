"""Train the mel VAE: L1 of the normalised log-mel, of its differences in time and frequency, and a small KL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sounding.audio import MelSpectrogram
from sounding.config import SoundingConfig
from sounding.networks import build_vae

from .data.sounds import sounding_crops
from .data.stamps import Stamps
from .loop import LoopConfig, run

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class VaeRecipe:
    """Settings of `train_vae`; `frames` is the crop length in mel frames."""

    loop: LoopConfig
    frames: int = 128
    kl: float = 1e-3
    difference: float = 0.5


def train_vae(
    config: SoundingConfig,
    recipe: VaeRecipe,
    data: Stamps,
    folder: Path,
    *,
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train from `start` (from scratch without) and return the VAE's weights; the state is kept in `folder`."""
    torch.manual_seed(recipe.loop.seed)
    vae = build_vae(config)
    if start is not None:
        vae.load_state_dict(start)
    to_mel = MelSpectrogram(config.audio)

    def losses(step: int, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        waveform = sounding_crops(data.recordings, recipe.loop.batch, recipe.frames * config.audio.hop, rng)
        mel = (to_mel(waveform)[:, None] - config.vae.mel_mean) / config.vae.mel_std  # [B, 1, T, 64]
        posterior = vae.encode(mel).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = restored - mel
        l1 = error.abs().mean()
        slope = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return {
            "loss": l1 + recipe.difference * slope + recipe.kl * kl,
            "l1": l1 * config.vae.mel_std,
            "kl": kl,
        }

    return run(vae, losses, recipe.loop, folder / "vae.state")


@torch.no_grad()
def latent_scale(config: SoundingConfig, vae: AutoencoderKL, data: Stamps, clips: int = 64) -> float:
    """1 / standard deviation of the latents of random clips: what brings them to unit variance."""
    rng = np.random.default_rng(0)
    waveform = sounding_crops(data.recordings, clips, 256 * config.audio.hop, rng)
    mel = (MelSpectrogram(config.audio)(waveform)[:, None] - config.vae.mel_mean) / config.vae.mel_std
    return 1.0 / float(vae.encode(mel).latent_dist.mean.std())
