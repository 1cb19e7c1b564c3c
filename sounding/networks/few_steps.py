"""A few-step student as low-rank changes of a U-Net's weights, beside them in one checkpoint.

The student of step distillation ("Phased Consistency Models", Wang et al. 2024, and before it "Latent Consistency
Models", Luo et al. 2023) makes in a few evaluations, without guidance, what its teacher makes in many with it. That its
difference from the teacher can be of low rank is LCM-LoRA's finding (Luo et al. 2023). So one small file has both: the
student is quick, and the teacher takes guidance, negative selections, and further training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

CHILD = "few_steps"  # of the U-Net


class FewSteps(nn.Module):
    """W -> W + B A for each linear and convolutional weight W [rows, ...].

    B is `out` [rows, rank] and A `into` [rank, columns], by the names of the U-Net's layers with dashes for dots.
    """

    def __init__(self, unet: nn.Module, rank: int):
        super().__init__()
        into: dict[str, nn.Parameter] = {}
        out: dict[str, nn.Parameter] = {}
        for name, layer in layers_of(unet):
            rows, columns = layer.weight.shape[0], layer.weight[0].numel()
            width = min(rank, rows, columns)
            into[key_of(name)] = nn.Parameter(torch.zeros(width, columns))
            out[key_of(name)] = nn.Parameter(torch.zeros(rows, width))
        self.into, self.out = nn.ParameterDict(into), nn.ParameterDict(out)

    def change(self, name: str) -> Tensor:
        """What is added to a layer's weight: [rows, columns], in float32."""
        return self.out[key_of(name)].float() @ self.into[key_of(name)].float()


def without_student(unet: Any) -> Any:
    """The U-Net itself, with no student beside it any more."""
    if hasattr(unet, CHILD):
        delattr(unet, CHILD)
    return unet


def layers_of(unet: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """A network's linear and convolutional layers by name."""
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


@torch.no_grad()
def student_of(unet: Any) -> Any:
    """A copy of a U-Net that has `few_steps`, with the changes made."""
    changes = cast(FewSteps, getattr(unet, CHILD))
    made = without_student(copy.deepcopy(unet))
    for name, layer in layers_of(made):
        weight = layer.weight
        layer.weight = nn.Parameter(
            (weight.float() + changes.change(name).view_as(weight)).to(weight.dtype), requires_grad=False
        )
    return made


def key_of(name: str) -> str:
    """What a layer is called in `FewSteps`, whose keys may have no dots."""
    return name.replace(".", "-")
