"""Grounded diffusion of a model that is trained already: parts of it stay frozen, and the diffusion times of a batch
can be spread evenly, since few steps on few recordings would sample them unevenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sounding.model import SoundingModel

from ..engine.loader import SPREAD
from ..engine.settings import Weight
from .grounded import GroundedObjective, GroundedSettings, clean_weights

ATTENTION = ("to_query", "to_key", "key_positions", "score")  # parameters that decide where grounding looks


@dataclass(frozen=True)
class GroundedFinetuningSettings(GroundedSettings):
    """The paper's settings, and what a trained model needs besides.

    Attributes:
        snr_floor: weighs the loss by max(snr_floor, min(SNR, gamma)) / SNR. What kind of sound is made is decided at
            high noise, where the plain loss has little weight, and guidance amplifies errors there.
        snr_limit: the largest weight (0: no limit). At the noisiest times the floor alone would give weights of a
            thousand, and the gradient would come from the last tenth of the times only.
        even_times: the times of a step's batch are spread evenly from one draw (Kingma et al. 2021, "low-discrepancy
            sampler"), so that few steps cover all of them.
        keep_attention: the attention's parameters stay frozen. Attention that is trained together with a fresh
            U-Net spreads over the image, and masks, which are brought to its deviation, lose their contrast.
        keep_grounding: all of grounding stays frozen, and gives conditions as in generation.
    """

    snr_floor: Weight = 0.0
    snr_limit: Weight = 0.0
    even_times: bool = False
    keep_attention: bool = False
    keep_grounding: bool = False


class GroundedFinetuningObjective(GroundedObjective):
    """`GroundedObjective` with `GroundedFinetuningSettings`."""

    def __init__(self, model: SoundingModel, settings: GroundedFinetuningSettings):
        super().__init__(model, settings)
        if settings.keep_attention:
            for name, parameter in self.grounding.named_parameters():
                parameter.requires_grad_(not name.startswith(ATTENTION))
        self.keep_grounding, self.even_times = settings.keep_grounding, settings.even_times
        if self.keep_grounding:
            self.grounding.requires_grad_(False)

    def loss_weights(self, snr: Tensor, settings: Any) -> Tensor:
        """See `GroundedObjective`."""
        return bounded_snr_weights(snr, settings, velocity=self.velocity)

    def train(self, mode: bool = True) -> GroundedFinetuningObjective:
        """See `nn.Module`; a frozen grounding stays in evaluation mode, so that its statistics do not change."""
        super().train(mode)
        if self.keep_grounding:
            self.grounding.eval()
        return self

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        return {**super().example(device), SPREAD: torch.zeros(1, device=device)}

    def times(self, batch: dict[str, Any]) -> Tensor:
        """Diffusion times [B]: drawn for each item by itself, or spread evenly over the step's batch."""
        if not self.even_times:
            return super().times(batch)
        steps = len(self.signal)
        return (batch[SPREAD] * steps).long().clamp(max=steps - 1)


def bounded_snr_weights(snr: Tensor, settings: GroundedFinetuningSettings, *, velocity: bool) -> Tensor:
    """`min_snr_weights` [N] with a lower bound on the weight of clean latents' errors, and an upper one of its own."""
    plain = clean_weights(snr, velocity=velocity)
    wanted = snr.clamp(max=settings.snr_gamma) if settings.snr_gamma else plain
    weight = wanted.clamp(min=settings.snr_floor) / plain
    return weight.clamp(max=settings.snr_limit or math.inf)
