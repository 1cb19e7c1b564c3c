"""The vocoder on mels of which a share is reconstructed by the VAE, so that it learns to undo what the VAE loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.model import SoundingModel

from ..data.settings import DataSettings
from ..data.sounds import Clips, find_clips
from ..engine.loader import Item
from ..engine.objective import Critic
from ..engine.settings import Share
from ..tasks.discriminators import WaveformCritic
from ..tasks.task import Context, Task
from ..tasks.vocoder import VocoderItems, VocoderObjective, VocoderSettings


@dataclass(frozen=True)
class StarterVocoderSettings(VocoderSettings):
    """`reconstructed` is the share of items whose mel is the VAE's reconstruction."""

    reconstructed: Share = 0.0


class StarterVocoderItems(VocoderItems):
    """Crops of sounds, and whether the VAE reconstructs their mel."""

    def __init__(self, clips: Clips, model: SoundingModel, settings: StarterVocoderSettings):
        super().__init__(clips, model, settings)
        self.reconstructed = settings.reconstructed

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """waveform [samples] and reconstructed, a boolean."""
        item = super().item(index, rng)
        return {**item, "reconstructed": bool(rng.random() < self.reconstructed)}


class StarterVocoderObjective(VocoderObjective):
    """`VocoderObjective` on partly reconstructed mels."""

    def __init__(self, model: SoundingModel, settings: StarterVocoderSettings, *, fresh: bool):
        super().__init__(model, settings, fresh=fresh)
        # Frozen, so no child module: neither states nor other processes need it.
        self._vae = [model.vae] if settings.reconstructed else []

    def place(self, device: torch.device) -> None:
        """Move the VAE, which is no child module."""
        for vae in self._vae:
            vae.to(device)

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        return {**super().example(device), "reconstructed": torch.zeros(1, dtype=torch.bool, device=device)}

    @torch.no_grad()
    def reconstruct(self, mel: Tensor) -> Tensor:
        """Log-mels [B, T, 64] through the VAE and back."""
        (vae,), config = self._vae, self.config.vae
        return config.log_mel(vae.decode(vae.encode(config.normal(mel)).latent_dist.mean).sample)

    def input_mel(self, mel: Tensor, batch: dict[str, Any]) -> Tensor:
        """See `VocoderObjective`."""
        rows = batch["reconstructed"]
        if not rows.any():
            return mel
        mixed = mel.clone()
        mixed[rows] = self.reconstruct(mel[rows])
        return mixed


class StarterVocoderTask(Task[StarterVocoderSettings]):
    """Crops of sounds, from shards or stamps."""

    name = "starter_vocoder"
    settings = StarterVocoderSettings

    def objective(
        self, model: SoundingModel, settings: StarterVocoderSettings, context: Context
    ) -> StarterVocoderObjective:
        """See `Task`."""
        return StarterVocoderObjective(model, settings, fresh="vocoder" in context.fresh)

    def critic(self, settings: StarterVocoderSettings) -> Critic | None:
        """See `Task`."""
        return WaveformCritic(settings.critic) if settings.critic else None

    def items(self, model: SoundingModel, settings: StarterVocoderSettings, data: DataSettings) -> StarterVocoderItems:
        """See `Task`."""
        return StarterVocoderItems(find_clips(data), model, settings)
