"""New sounds beside known ones: of known objects the U-Net goes on to predict what it predicted before.

A recording says what is right only through noise, and steps towards it, right on average, carry the known sounds away.
What the model predicted itself from the same latents is free of that noise and, as long as nothing is forgotten, asks
for no change ("Learning without Forgetting", Li & Hoiem 2016, for a diffusion model).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.model import SoundingModel

from .conditions import heard_in
from .grounded import GroundedItems, GroundedObjective, GroundedSettings
from .loader import Item


class RehearsedItems(GroundedItems):
    """Items of `GroundedItems`, each with whether all that sounds in it was known before."""

    fields = (*GroundedItems.fields, "labels", "sounding")

    def __init__(self, folder: Path, model: SoundingModel, settings: GroundedSettings, new: int):
        """Objects with numbers below `new` are new."""
        super().__init__(folder, model, settings)
        self.new = new

    def more(self, row: dict[str, Any]) -> Item:
        """known."""
        return {"known": min(heard_in(row)) >= self.new}


class RehearsedObjective(GroundedObjective):
    """Learns as `GroundedObjective` does from new items, and from known ones, `weight` times as much, to stay."""

    def __init__(self, model: SoundingModel, settings: GroundedSettings, weight: float = 1.0):
        super().__init__(model, settings)
        self.known_weight = weight
        # Never learns and is made anew by every run, so it is no child: neither state nor optimiser need to know of it.
        self._before = [copy.deepcopy(self.unet).requires_grad_(False).eval()]

    def place(self, device: torch.device) -> None:
        """The U-Net as it was is no child, so nobody else moves it."""
        super().place(device)
        self._before[0].to(device)

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        return {**super().example(device), "known": torch.ones(1, dtype=torch.bool, device=device)}

    def errors(
        self, predicted: Tensor, target: Tensor, batch: dict[str, Any], asked: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """See GroundedObjective."""
        known = batch["known"]
        if known.any():
            latents, times, conditions = (part[known] for part in asked)
            with torch.no_grad():
                before = self._before[0](latents, times, encoder_hidden_states=conditions).sample.float()
            target = target.index_put((known,), before)
        errors = super().errors(predicted, target, batch, asked)
        return torch.where(known, self.known_weight * errors, errors)
