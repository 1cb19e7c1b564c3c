"""The adversarial step: what a critic teaches, and what learns in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.engine.loop import train
from training.engine.objective import Objective
from training.engine.settings import LoopConfig
from training.engine.states import States
from training.tasks.discriminators import LeastSquaresCritic

from .toys import Numbers, scaled


class Loud(LeastSquaresCritic):
    """Scores by level alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        hidden = self.scale * x
        return [[hidden, hidden.mean(dim=1, keepdim=True)]]


class Made(Objective):
    """A level that only the critic's opinion can teach."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        real = torch.ones_like(batch["x"])
        return {"loss": 0 * self.level, "real": real, "made": self.level * real}


def test_a_critic_teaches_what_no_distance_does(tmp_path: Path) -> None:
    objective, critic = Made(), Loud()
    objective.adversarial_weight, objective.matching_weight = 1.0, 2.0
    loop = LoopConfig(batch=4, lr=0.02, steps=60, warmup=0, precision="fp32", betas=(0.5, 0.9), weight_decay=0.0)
    train(objective, Numbers(), loop, tmp_path, critic=critic)
    assert float(objective.level.detach()) > 0.5
    assert float(critic.scale.detach()) > 0.1
    state = States(tmp_path / "states").latest()
    assert state is not None
    assert torch.equal(state["critic"]["module"]["scale"], critic.scale.detach())


def test_a_loss_scale_is_one_for_both_and_changes_neither(tmp_path: Path) -> None:
    """It doubles every three steps, between the steps of objective and critic if each of them moved it."""
    loop = LoopConfig(batch=4, lr=0.02, steps=12, warmup=0, precision="fp32", betas=(0.5, 0.9))
    found = []
    for name, accelerator in (("plain", None), ("scaled", scaled())):
        objective, critic = Made(), Loud()
        train(objective, Numbers(), loop, tmp_path / name, critic=critic, accelerator=accelerator)
        found.append((objective.level.detach(), critic.scale.detach()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert accelerator is not None
    assert accelerator.scaler.get_scale() == 2.0**12
