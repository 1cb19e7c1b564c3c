"""Muon: steps of orthogonal matrices, "An optimizer for hidden layers in neural networks" (Jordan et al. 2024).

Of a weight's gradients a few directions are large and most are small; a step that is orthogonal moves it as far along
each. torch's own `torch.optim.Muon` takes matrices alone, and weights of convolutions are matrices, too, of a row per
output channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Of the polynomial a x + b x^3 + c x^5, which brings singular values to about 1 in five rounds (Jordan et al. 2024).
A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5
MOMENTUM = 0.95
# Numbers of a step are about as large as AdamW's are (Liu et al. 2025, "Muon is Scalable for LLM Training").
SCALE = 0.2


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal, with decoupled weight decay; for weights of two or more dimensions."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closures here
        """One step along the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(MOMENTUM).add_(weight.grad)
                ahead = weight.grad.add(state["momentum"], alpha=MOMENTUM).flatten(1)
                size = SCALE * max(ahead.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead).view_as(weight), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [rows, columns] with its singular values brought to about 1: between 0.6 and 1.3 where they are above
    a thousandth of its norm. In float32.

    The polynomial's rounds are computed for the smaller of the Gram matrices alone, and their product is applied once,
    which with many columns is a fifth of the work.
    """
    wide = matrix.float()
    if turned := wide.shape[0] > wide.shape[1]:
        wide = wide.T
    gram = wide @ wide.T
    norm = gram.trace().clamp(min=1e-30)
    gram = gram / norm
    one = torch.eye(len(gram), device=gram.device)
    total = one
    for _ in range(ROUNDS):
        factor = A * one + B * gram + C * gram @ gram
        total = factor @ total
        gram = factor @ gram @ factor
    found = total @ wide / norm.sqrt()
    return found.T if turned else found
