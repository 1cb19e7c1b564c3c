"""A small `Grounding`, and inputs for it."""

from __future__ import annotations

from dataclasses import replace

import torch

from sounding.config import GroundingConfig
from sounding.grounding import Grounding

P = 49
SMALL = GroundingConfig(key_width=12, mlp_width=20, condition_width=8)
WIDTH = 16


def partial(count: int) -> torch.Tensor:
    coverage = torch.zeros(1, P)
    coverage[0, :count] = 1.0
    return coverage


def make(**changes: object) -> Grounding:
    torch.manual_seed(3)
    grounding = Grounding(replace(SMALL, **changes), WIDTH, P)  # type: ignore[arg-type]
    for weight in grounding.parameters():  # large enough for attention to take sides
        torch.nn.init.normal_(weight, std=0.5)
    return grounding.eval().requires_grad_(False)


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, WIDTH, generator=generator), torch.randn(batch, P, WIDTH, generator=generator)
