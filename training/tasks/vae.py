"""The mel VAE: L1 of the normalised log-mel and of its slopes, a small KL, and if wanted a patch discriminator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.audio.mel import MelSpectrogram
from sounding.model import SoundingModel
from sounding.utils.fields import Checked

from ..data.settings import DataSettings
from ..data.sounds import Clips, find_clips
from ..engine.loader import Item, Items
from ..engine.objective import Critic, Objective
from ..engine.settings import Frames, Scale, Weight
from .discriminators import MelCritic
from .task import Built, Context, Task


@dataclass(frozen=True)
class VaeSettings(Checked):
    """`frames` is the crop's length in mel frames, `kl` and `slope` weigh their terms against the L1.

    `critic` scales the widths of a patch discriminator (0: none, 1: the published ones), weighed by `adversarial`.
    """

    frames: Frames = 128
    kl: Weight = 1e-3
    slope: Weight = 0.5
    critic: Scale = 0.0
    adversarial: Weight = 0.1


class VaeItems:
    """Crops of sounds, as waveforms [samples] with the noise that samples the posterior."""

    def __init__(self, clips: Clips, model: SoundingModel, settings: VaeSettings):
        self.clips, self.config = clips, model.config
        self.frames = settings.frames
        if self.frames % self.config.vae.stride:
            raise ValueError(
                f"vae.frames is {self.frames}, but a multiple of {self.config.vae.stride} is expected, for so many mel "
                "frames are one of the latents."
            )

    def __len__(self) -> int:
        return len(self.clips)

    def ids(self) -> Sequence[str]:
        """See `NamedItems`."""
        return self.clips.ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """waveform [frames * hop], noise [8, frames/4, 16]."""
        vae = self.config.vae
        shape = (vae.latent_channels, self.frames // vae.stride, self.config.latent_bands)
        return {
            "waveform": self.clips.crop(index, self.frames * self.config.audio.hop, rng),
            "noise": torch.from_numpy(rng.standard_normal(shape, np.float32)),
        }


class VaeObjective(Objective):
    """Learns the model's VAE in place."""

    def __init__(self, model: SoundingModel, settings: VaeSettings):
        super().__init__()
        self.settings, self.config = settings, model.config.vae
        self.vae, self.bands = model.vae, model.config.latent_bands
        self.requires_grad_(True)
        self.to_mel = MelSpectrogram(model.config.audio)
        self.adversarial_weight, self.matching_weight = settings.adversarial, 0.0

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        shape = (self.config.latent_channels, self.settings.frames // self.config.stride, self.bands)
        samples = self.settings.frames * self.to_mel.config.hop
        return {"waveform": torch.zeros(1, samples, device=device), "noise": torch.zeros(1, *shape, device=device)}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `VaeItems`; l1 is in nats of the log-mel."""
        mel = self.config.normal(self.to_mel(batch["waveform"]))
        posterior = self.vae.encode(mel).latent_dist
        restored = self.vae.decode(posterior.mean + posterior.std * batch["noise"]).sample.float()
        error = restored - mel
        l1 = error.abs().mean()
        slope = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        losses = {
            "loss": l1 + self.settings.slope * slope + self.settings.kl * kl,
            "l1": l1 * self.config.mel_std,
            "kl": kl,
        }
        return losses | {"real": mel, "made": restored} if self.settings.critic else losses

    @torch.no_grad()
    def measure_scale(self, model: SoundingModel, items: Items, clips: int = 64) -> None:
        """Set the latents' scale in `model.config`: 1 / standard deviation over random clips (unit variance)."""
        rows = [items.item(i % len(items), np.random.default_rng([0, 2, i]))["waveform"] for i in range(clips)]
        device = next(self.vae.parameters()).device
        means = [
            self.vae.encode(self.config.normal(self.to_mel(part.to(device)))).latent_dist.mean
            for part in torch.stack(rows).split(16)
        ]
        vae = dataclasses.replace(model.config.vae, scale=round(1.0 / float(torch.cat(means).std()), 4))
        model.config = dataclasses.replace(model.config, vae=vae)


class VaeTask(Task[VaeSettings]):
    """Crops of sounds, from shards or stamps; the latents' scale is measured at the end."""

    name = "vae"
    settings = VaeSettings

    def objective(self, model: SoundingModel, settings: VaeSettings, context: Context) -> VaeObjective:
        """See `Task`."""
        return VaeObjective(model, settings)

    def critic(self, settings: VaeSettings) -> Critic | None:
        """See `Task`."""
        return MelCritic(settings.critic) if settings.critic else None

    def items(self, model: SoundingModel, settings: VaeSettings, data: DataSettings) -> VaeItems:
        """See `Task`."""
        return VaeItems(find_clips(data), model, settings)

    def finish(self, model: SoundingModel, built: Built) -> None:
        """See `Task`."""
        assert isinstance(built.objective, VaeObjective)
        built.objective.measure_scale(model, built.items)
