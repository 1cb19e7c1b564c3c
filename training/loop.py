"""The loop that every trainer shares: schedule, precision, clipping, logging, and resuming where it stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sounding.files import replacing

log = logging.getLogger("training")


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. The learning rate warms up and then falls as a cosine to 2 % of its peak."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    ema: float = 0.0  # 0 keeps no running average of the weights
    save_minutes: float = 3.0
    log_every: int = 100


StepFunction = Callable[[int, np.random.Generator, torch.Generator], dict[str, Tensor]]


def step_randomness(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The random numbers of one step depend on seed and step alone, so a resumed run draws the same ones."""
    return np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed * 1_000_003 + step)


def rate_at(step: int, loop: LoopConfig) -> float:
    """Learning rate of `step`."""
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    done = (step - loop.warmup) / max(1, loop.steps - loop.warmup)
    return loop.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def run(module: nn.Module, losses: StepFunction, loop: LoopConfig, state_file: Path) -> dict[str, Tensor]:
    """Train `module` in place and return the weights to keep (the running average if there is one).

    Args:
        module: everything that learns.
        losses: `losses(step, rng, generator)` gives named scalar losses; "loss" is minimised.
        loop: the settings.
        state_file: where the state is kept; a run that finds one goes on from it.

    Raises:
        FloatingPointError: the loss is not finite; the last saved state is left as it was.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, loop.lr, betas=loop.betas, eps=loop.eps, weight_decay=loop.weight_decay)
    average = {k: v.detach().clone() for k, v in module.state_dict().items()} if loop.ema else {}
    first = 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
        log.info("%s: going on from step %d", state_file.stem, first)

    def save(step: int) -> None:
        with replacing(state_file) as temporary:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            torch.save(state | {"step": step}, temporary)

    device = parameters[0].device.type
    module.train()
    saved = logged = time.monotonic()
    sums: dict[str, float] = {}
    summed = 0
    for step in range(first, loop.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, loop)
        with torch.autocast(device, torch.bfloat16, enabled=loop.bf16):
            named = losses(step, *step_randomness(loop.seed, step))
        if not torch.isfinite(named["loss"]):
            raise FloatingPointError(f"{state_file.stem}: loss is {named['loss'].item()} at step {step}.")
        optimizer.zero_grad(set_to_none=True)
        named["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, loop.clip)
        optimizer.step()
        if loop.ema:
            decay = min(loop.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, value in module.state_dict().items():
                    kept = average[name]
                    kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)
        for name, value in named.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        summed += 1
        if (step + 1) % loop.log_every == 0:
            seconds, logged = time.monotonic() - logged, time.monotonic()
            shown = "  ".join(f"{name} {total / summed:.4f}" for name, total in sums.items())
            left = (loop.steps - step - 1) * seconds / summed / 60
            sums, summed = {}, 0
            log.info("%s %d/%d  %s  %.1f min left", state_file.stem, step + 1, loop.steps, shown, left)
        if time.monotonic() - saved > loop.save_minutes * 60:
            save(step + 1)
            saved = time.monotonic()
    if first < loop.steps:
        save(loop.steps)
    module.eval()
    return average or {k: v.detach().clone() for k, v in module.state_dict().items()}
