"""Train the HiFi-GAN generator by mel and multi-resolution STFT distances.

The starter's copies need no discriminators to be recognisable; adversarial training belongs to larger runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sounding.audio import MelSpectrogram
from sounding.config import SoundingConfig
from sounding.networks import build_vae, build_vocoder

from .data.sounds import sounding_crops
from .data.stamps import Stamps
from .loop import LoopConfig, run


@dataclass(frozen=True)
class VocoderRecipe:
    """Settings of `train_vocoder`; `restored` is the share of batches whose mel went through the VAE,
    `plain` the share of crops from single recordings as they are (see `sounding_crops`).
    """

    loop: LoopConfig
    frames: int = 50
    mel_mean: float = -4.6
    mel_std: float = 2.2
    mel_weight: float = 1.0
    resolutions: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    restored: float = 0.0
    plain: float = 0.0


def stft_distance(made: Tensor, real: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Spectral convergence plus log-magnitude L1, averaged over FFT sizes. Both [B, samples]."""
    total = made.new_zeros(())
    for size in sizes:
        window = torch.hann_window(size, device=made.device)
        a, b = (
            torch.stft(x, size, size // 4, window=window, return_complex=True).abs().clamp(min=1e-5)
            for x in (made, real)
        )
        total = total + (a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean()
    return total / len(sizes)


def fold_weight_norm(module: nn.Module) -> None:
    """Turn weight-normed layers into plain ones. transformers' own `remove_weight_norm` knows only the hooks
    of older torch versions, while its `apply_weight_norm` makes parametrizations.
    """
    for layer in module.modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")


def train_vocoder(
    config: SoundingConfig,
    recipe: VocoderRecipe,
    data: Stamps,
    folder: Path,
    *,
    state: str = "vocoder",
    start: dict[str, Tensor] | None = None,
    vae_weights: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train and return the generator's weights, weight norm folded in.

    Args:
        state: name of the state file in `folder`.
        start: weights to begin with; from scratch without.
        vae_weights: needed where `recipe.restored` is above 0: the vocoder then also learns to undo what the
            VAE does to a mel.
    """
    torch.manual_seed(recipe.loop.seed)
    vocoder = build_vocoder(config)
    if start is not None:
        vocoder.load_state_dict(start)
    else:
        vocoder.mean.fill_(recipe.mel_mean)
        vocoder.scale.fill_(recipe.mel_std)
    vocoder.apply_weight_norm()  # without it the generator does not get anywhere at this size
    to_mel = MelSpectrogram(config.audio)
    vae = build_vae(config)
    if vae_weights is not None:
        vae.load_state_dict(vae_weights)

    @torch.no_grad()
    def through_vae(mel: Tensor) -> Tensor:
        normal = (mel[:, None] - config.vae.mel_mean) / config.vae.mel_std
        restored = vae.decode(vae.encode(normal).latent_dist.mean).sample[:, 0].float()
        return restored * config.vae.mel_std + config.vae.mel_mean

    def losses(step: int, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        frames = recipe.frames // 4 * 4
        real = sounding_crops(data.recordings, recipe.loop.batch, frames * config.audio.hop, rng, plain=recipe.plain)
        mel = to_mel(real)  # [B, T, 64]
        seen = through_vae(mel) if rng.random() < recipe.restored else mel
        made = vocoder(seen).float()[:, : real.shape[1]]  # HiFi-GAN of these kernels ends 32 samples late
        mel_l1 = (to_mel(made) - mel).abs().mean()
        stft = stft_distance(made, real, recipe.resolutions)
        return {"loss": recipe.mel_weight * mel_l1 + stft, "mel": mel_l1, "stft": stft}

    weights = run(vocoder, losses, recipe.loop, folder / f"{state}.state")
    vocoder.load_state_dict(weights)
    fold_weight_norm(vocoder)
    return {name: value.detach().clone() for name, value in vocoder.state_dict().items()}
