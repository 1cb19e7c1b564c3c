"""New sounds beside known ones: of known objects the U-Net goes on to predict what it predicted before, also where
grounding has moved conditions a little to make room for new ones.

A recording says what is right only through noise, and steps towards it, right on average, carry the known sounds away.
What the model predicted itself from the same latents is free of that noise and, as long as nothing is forgotten, asks
for no change ("Learning without Forgetting", Li & Hoiem 2016, for a diffusion model).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.grounding import Grounding
from sounding.model import SoundingModel

from ..engine.loader import Item
from ..tasks.grounded import GroundedItems, conditions
from ..tasks.grounded_finetuning import GroundedFinetuningObjective, GroundedFinetuningSettings
from .conditions import heard_in
from .low_rank import change_by_low_rank, fold

Before = tuple[Grounding, Any]  # and the U-Net


class RehearsedItems(GroundedItems):
    """Items of `GroundedItems`, each with whether all that sounds in it was known before."""

    fields = (*GroundedItems.fields, "labels", "sounding")

    def __init__(self, folder: Path, model: SoundingModel, settings: GroundedFinetuningSettings, new: int):
        """Objects with numbers below `new` are new."""
        super().__init__(folder, model, settings)
        self.new = new

    def more(self, row: dict[str, Any]) -> Item:
        """known."""
        return {"known": min(heard_in(row)) >= self.new}


class RehearsedObjective(GroundedFinetuningObjective):
    """Learns as `GroundedObjective` does from new items, and from known ones, `weight` times as much, to stay."""

    def __init__(
        self,
        model: SoundingModel,
        settings: GroundedFinetuningSettings,
        before: Before,
        weight: float = 1.0,
        rank: int = 0,
    ):
        """`before` is what came: grounding has moved conditions since, also those of known objects. `rank` lets the
        U-Net change by that rank at most, until `install`; 0 leaves it free.
        """
        super().__init__(model, settings)
        if rank:
            change_by_low_rank(self.unet, rank)
        self.known_weight = weight
        for part in before:
            part.requires_grad_(False).eval()
        # Never learns and is the same in every run, so it is no child: neither state nor optimiser need to know of it.
        self._before = before

    def place(self, device: torch.device) -> None:
        """What came is no child, so nobody else moves it."""
        super().place(device)
        for part in self._before:
            part.to(device)

    def install(self, model: SoundingModel) -> None:
        """Plain weights again: once, at the end, for nothing learns after it."""
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
