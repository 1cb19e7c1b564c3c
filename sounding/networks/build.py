"""AudioLDM's networks, built from the configuration and ready to be used."""

from __future__ import annotations

from ..config import SoundingConfig
from .unet import UNet
from .vae import Vae
from .vocoder import Vocoder


def build_vae(config: SoundingConfig) -> Vae:
    """Mel [B, 1, T, 64] <-> latents [B, 8, T/4, 16]."""
    return Vae(config).eval()


def build_unet(config: SoundingConfig) -> UNet:
    """Noise predictor over [B, 8, T/4, 16], cross-attending to the condition [B, N, D]."""
    return UNet(config).eval()


def build_vocoder(config: SoundingConfig) -> Vocoder:
    """Mel [B, T, 64] -> waveform [B, T * hop]."""
    return Vocoder(config).eval()
