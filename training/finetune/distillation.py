"""The U-Net learns new sounds, and on rehearsal items it is distilled from the model that it was.

The noise that a rehearsal item's loss would predict is a random draw, and steps towards it, right on average, change
the sounds that the model knows. The former model's own prediction from the same latents is free of that randomness and
asks for no change as long as nothing is forgotten ("Learning without Forgetting", Li & Hoiem 2016, for a diffusion
model), also where grounding has moved conditions a little to make room for new ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.grounding import Grounding
from sounding.model import SoundingModel

from ..engine.loader import Item
from ..tasks.grounded import GroundedItems, conditions, sounding_labels
from ..tasks.grounded_finetuning import GroundedFinetuningObjective, GroundedFinetuningSettings
from ..tasks.low_rank import change_by_low_rank, fold

Before = tuple[Grounding, Any]  # the former grounding and U-Net


class DistillationItems(GroundedItems):
    """Items of `GroundedItems`, each with whether it is a rehearsal item: one without a new object that sounds."""

    fields = (*GroundedItems.fields, "labels", "sounding")

    def __init__(self, folder: Path, model: SoundingModel, settings: GroundedFinetuningSettings, new: int):
        """Objects with numbers below `new` are new."""
        super().__init__(folder, model, settings)
        self.new = new

    def more(self, row: dict[str, Any]) -> Item:
        """known."""
        return {"known": min(sounding_labels(row)) >= self.new}


class DistillationObjective(GroundedFinetuningObjective):
    """`GroundedFinetuningObjective` on new items, distillation with `weight` on rehearsal items."""

    def __init__(
        self,
        model: SoundingModel,
        settings: GroundedFinetuningSettings,
        before: Before,
        weight: float = 1.0,
        rank: int = 0,
    ):
        """`before` is the model before fine-tuning. `rank` limits the U-Net's changes to that rank, until `install`; 0
        trains all its weights.
        """
        super().__init__(model, settings)
        if rank:
            change_by_low_rank(self.unet, rank)
        self.known_weight = weight
        for part in before:
            part.requires_grad_(False).eval()
        # Frozen and the same in every run, so no child module: neither states nor the optimiser need it.
        self._before = before

    def place(self, device: torch.device) -> None:
        """Move the former model, which is no child module."""
        super().place(device)
        for part in self._before:
            part.to(device)

    def install(self, model: SoundingModel) -> None:
        """Fold low-rank changes into plain weights; once, after the last step."""
        fold(model.unet)

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        return {**super().example(device), "known": torch.ones(1, dtype=torch.bool, device=device)}

    def errors(self, predicted: Tensor, target: Tensor, noisy: Tensor, batch: dict[str, Any]) -> Tensor:
        """See GroundedObjective."""
        # A new item's prediction without a condition is left to learn: held to what it was as well, and conditions
        # alone moving, fewer sounds are right of both kinds, for guidance multiplies the difference of the two.
        known, (grounding, unet) = batch["known"], self._before
        if known.any():
            with torch.no_grad():
                asked, _ = conditions(grounding, batch)
                was = unet(noisy[known], batch["time"][known], encoder_hidden_states=asked[known]).sample.float()
            target = target.index_put((known,), was)
        errors = super().errors(predicted, target, noisy, batch)
        return torch.where(known, self.known_weight * errors, errors)
