"""Optimisation: the learning-rate schedule, and modules with their optimisers on one process or many."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .muon import Muon
from .objective import Critic, Features, Objective
from .settings import LoopConfig


def learning_rate(step: int, steps: int, loop: LoopConfig) -> float:
    """The schedule: learning rate of `step` in a run of `steps`, a linear warm-up and a cosine or constant after it."""
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    if loop.schedule == "constant":
        return loop.lr
    done = (step - loop.warmup) / max(1, steps - loop.warmup)
    return loop.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class TrainedModule:
    """A module with its optimisers; `model` is what processes share, `module` what it wraps."""

    def __init__(self, module: nn.Module, loop: LoopConfig, accelerator: Accelerator):
        self.module, self.loop, self.accelerator = module, loop, accelerator
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        fused = accelerator.device.type in ("cpu", "cuda")  # one pass over weights and moments instead of a dozen
        matrices = [p for p in self.parameters if loop.optimizer == "muon" and p.ndim > 1]
        chosen = set(matrices)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}  # by their names in states
        if others := [p for p in self.parameters if p not in chosen]:
            self.optimizers["optimizer"] = torch.optim.AdamW(
                others, loop.lr, betas=loop.betas, eps=loop.eps, weight_decay=loop.weight_decay, fused=fused
            )
        if matrices:
            self.optimizers["muon"] = Muon(matrices, loop.lr, loop.weight_decay)
        self.model = accelerator.prepare(module)
        if loop.compile:
            self.model = torch.compile(self.model)

    def step(self, rate: float) -> Tensor:
        """One step along the gradients that are there; returns their norm before clipping. Where it is not finite and
        there is a loss scaler (float16), the weights stay; its `update` is the caller's, once for all modules.
        """
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        scaler = self.accelerator.scaler
        # Not accelerate's clipping and optimiser, which unscale and update for all modules each time.
        if scaler is not None:
            for optimizer in self.optimizers.values():
                scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.loop.clip or math.inf)
        # The scaler knows of each optimiser's own gradients only, but no weight may move where those of any overflow.
        finite = scaler is None or bool(norm.isfinite())
        for optimizer in self.optimizers.values():
            if scaler is None:
                optimizer.step()
            elif finite:
                scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        if self.accelerator.num_processes > 1:  # running statistics, of which every process saw its share
            for buffer in self.module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.accelerator.reduce(buffer, "mean"))
        return norm

    def state(self) -> dict[str, Any]:
        """Weights and the optimiser's moments."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"module": self.module.state_dict(), **optimizers}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.module.load_state_dict(state["module"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


def backward(
    trained: TrainedModule, critic: TrainedModule | None, batch: dict[str, Any], accumulate: int
) -> dict[str, Tensor]:
    """Add the gradients of one of `accumulate` micro-batches, the critic's too; returns the losses, detached."""
    losses = trained.model(batch)
    if critic is not None:
        losses = _adversarial(trained, critic, losses, accumulate)
    trained.accelerator.backward(losses["loss"] / accumulate)
    return {name: value.detach() for name, value in losses.items()}


def _adversarial(
    trained: TrainedModule, critic: TrainedModule, losses: dict[str, Tensor], accumulate: int
) -> dict[str, Tensor]:
    """Add the critic's own gradients; gives the objective's losses with what the critic adds to them."""
    objective, discriminator = trained.module, critic.module
    assert isinstance(objective, Objective)
    assert isinstance(discriminator, Critic)
    real, made = losses.pop("real"), losses.pop("made")
    both: Features = critic.model(torch.cat([real, made.detach()]))
    features_of_real, features_of_made = ([[x.chunk(2)[half] for x in maps] for maps in both] for half in (0, 1))
    critic_loss = discriminator.critic_loss(features_of_real, features_of_made)
    trained.accelerator.backward(critic_loss / accumulate)
    discriminator.requires_grad_(False)  # its own gradients are complete; now it only judges
    with trained.accelerator.autocast():
        features_of_made = discriminator(made)
    discriminator.requires_grad_(True)
    added = discriminator.objective_losses(features_of_real, features_of_made)
    losses |= {"critic": critic_loss, **added}
    for name, weight in (("adversarial", objective.adversarial_weight), ("matching", objective.matching_weight)):
        losses["loss"] = losses["loss"] + weight * added[name]
    return losses
