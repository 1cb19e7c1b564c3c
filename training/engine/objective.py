"""What the loop trains: an objective, and for adversarial training the critic that learns against it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # a loop that trains something else need not load what makes sounds
    from sounding.model import SoundingModel

Features = list[list[Tensor]]


class Objective(nn.Module):
    """What a trainer adds to the loop: `forward(batch)` gives named scalar losses, of which "loss" is minimised.

    Every loss is a mean over items, so that processes with a share of the batch each average to the whole. An
    objective that is trained with a critic also gives "real" and "made", what the critic has to tell apart.
    """

    adversarial_weight: float = 1.0
    matching_weight: float = 2.0
    # Figures of some items only, given as the sum over these divided by all items: logged over the other figure, the
    # share of such items (and not at all where that is 0).
    ratios: ClassVar[Mapping[str, str]] = {}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a collated batch of `Items`."""
        raise NotImplementedError

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one item, of zeros, for estimates."""
        raise NotImplementedError

    def place(self, device: torch.device) -> None:
        """Called once before the first step: choose what runs fastest on `device`."""

    def checkpoint_gradients(self) -> None:
        """Let modules recompute their activations in the backward pass instead of keeping them; called once, before the
        first step. Here that is diffusers' models.

        Raises:
            ValueError: none of the modules can.
        """
        able = [module for module in self.modules() if getattr(module, "_supports_gradient_checkpointing", False)]
        for module in able:
            module.enable_gradient_checkpointing()  # type: ignore[operator]
        if not able:
            raise ValueError("loop.gradient_checkpointing is on, but nothing that this task trains can; turn it off.")

    def install(self, model: SoundingModel) -> None:
        """Put what was learnt into `model`, where it is not learnt in place."""


class Critic(nn.Module):
    """A network that learns to tell an objective's "real" from its "made": the discriminator of adversarial training.

    The loop runs it and its losses; what it looks at, and what its losses are, is the task's.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """A batch -> for each sub-discriminator its feature maps [B, ...], first layer first, score last."""

    @abstractmethod
    def critic_loss(self, real: Features, made: Features) -> Tensor:
        """What the critic minimises."""

    @abstractmethod
    def objective_losses(self, real: Features, made: Features) -> dict[str, Tensor]:
        """What the objective minimises besides its own loss: "adversarial", weighed by its `adversarial_weight`, and
        "matching", weighed by its `matching_weight`. No gradient reaches `real`.
        """
