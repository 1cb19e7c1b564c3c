"""Low-rank adaptation ("LoRA", Hu et al. 2022): weights stay frozen, and the product of two narrow matrices is added.
A seventh of the parameters learns, so that the noise of a few steps on a few recordings changes the model less.

The weights themselves are added to, not the layers' outputs as in peft: on CPUs narrow convolutions beside the wide
ones take longer than the weights' gradients do.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sounding.networks.few_steps import key_of, layers_of


class LowRank(nn.Module):
    """W -> W + B A; B [rows, rank], which begins as zero, and A [rank, columns of W beyond its first dimension]."""

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.into = nn.Parameter(torch.randn(rank, columns, generator=random).to(weight) / columns**0.5)
        self.out = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, in its own precision: rounding narrow matrices takes longer than it saves."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.out @ self.into).view_as(weight)


def change_by_low_rank(network: nn.Module, rank: int) -> None:
    """From now on nothing but changes of `rank` of its linear and convolutional weights learns in `network`."""
    random = torch.Generator().manual_seed(rank)
    network.requires_grad_(False)
    for _, layer in list(layers_of(network)):
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, random))


def fold(network: nn.Module) -> None:
    """Make the changes part of the weights."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


def low_rank_changes(network: nn.Module) -> dict[str, Tensor]:
    """The factors of all changes, as `sounding.networks.few_steps.FewSteps` has them."""
    found: dict[str, Tensor] = {}
    for name, layer in layers_of(network):
        change = cast(Any, layer).parametrizations.weight[0]
        key = key_of(name)
        found |= {f"into.{key}": change.into.detach(), f"out.{key}": change.out.detach()}
    return found
