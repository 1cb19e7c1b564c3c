"""`python -m training run RECIPE --dry-run`: the checks of a run before its first step, and estimates."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor, nn

from sounding.config import GenerationConfig, SoundingConfig
from sounding.model import SoundingModel

from .data.settings import DataSettings
from .engine.estimate import Estimate, estimate
from .engine.objective import Critic, Objective
from .engine.settings import LoopConfig
from .engine.states import check_writable
from .provenance import is_finished
from .recipe import Recipe, to_yaml
from .registry import TASKS
from .run import fresh_parts, prepare
from .tasks.task import Context, NetworkTask, Task

log = logging.getLogger("training")


class _Judged(nn.Module):
    """A step of an objective and the critic beside it, as one loss."""

    def __init__(self, objective: Objective, critic: Critic):
        super().__init__()
        self.objective, self.critic = objective, critic

    def forward(self, batch: dict[str, Any]) -> Tensor:
        losses: dict[str, Tensor] = self.objective(batch)
        real, made = losses["real"], losses["made"]
        both = self.critic(torch.cat([real, made.detach()]))
        wanted, found = ([[x.chunk(2)[half] for x in maps] for maps in both] for half in (0, 1))
        maps = self.critic(made)
        added = self.critic.objective_losses(wanted, maps)
        return losses["loss"] + self.critic.critic_loss(wanted, found) + sum(added.values())


def dry_run(recipe: Recipe, *, processes: int = 1) -> tuple[str, list[str]]:
    """Estimates of a run as text, and one sentence for each problem that would end it before its first step.

    Where files are missing, the estimate is of the recipe's own sizes, or left out where those do not fit together.
    """
    problems: list[str] = []
    steps = recipe.loop.steps
    try:
        ready = prepare(recipe, processes=processes, quick=True)
        objective, critic, steps = ready.built.objective, ready.built.critic, ready.steps
        if is_finished(recipe, ready.effective, steps, ready.made_of):
            return f"{recipe.result} is there, trained with these settings; nothing is left to do.", []
        check_writable(recipe.folder)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    try:
        if problems:
            objective, critic = _alone(recipe)
        found = estimate_step(objective, recipe.loop, steps=steps or 1, processes=processes, critic=critic)
    except (ValueError, OSError, RuntimeError, TypeError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        return f"No estimate: {said}", problems or [f"A step cannot be made: {said}"]
    text = str(found)
    if not steps:
        text += "\nThe steps are not known before the data is there; the time is that of one."
    if problems:
        text += "\nThe sizes are those of the recipe alone."
    return text, problems


def settings_in_use(recipe: Recipe) -> str:
    """The recipe as YAML, without what is switched off: features beyond the paper's, mostly.

    A run's own `recipe.yaml` has every setting.
    """
    values = recipe.values()
    blocks = {"data": DataSettings(), "model": SoundingConfig(), recipe.task: TASKS[recipe.task].settings()}
    for block, usual in blocks.items():
        values[block] = _without_off(values[block], dataclasses.asdict(usual))
    if not recipe.data.stamps:
        values["data"].pop("plain", None)
    if isinstance(TASKS[recipe.task], NetworkTask):
        for block in ("start", "model", "preview"):
            values.pop(block)
    elif not recipe.model.grounding.norm_matching:  # then thresholds of sureness are not used, all but one
        usual = dataclasses.asdict(GenerationConfig())
        generation = values["model"]["generation"]
        shown = {key for key, value in generation.items() if value != usual[key]} | {"steps", "cfg", "sampler"}
        values["model"]["generation"] = {key: value for key, value in generation.items() if key in shown}
    return to_yaml(values)


def _without_off(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings without the values that are both empty and the default."""
    kept = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _without_off(value, default)
        if value or value != default:
            kept[key] = value
    return kept


def estimate_step(
    objective: Objective, loop: LoopConfig, *, steps: int, processes: int = 1, critic: Critic | None = None
) -> Estimate:
    """`estimate` of an objective in a loop, its critic with it."""
    if loop.gradient_checkpointing:
        objective.checkpoint_gradients()
    return estimate(
        objective if critic is None else _Judged(objective, critic),
        objective.example,
        batch=loop.batch,
        steps=steps,
        mixed_precision=loop.mixed_precision,
        ema=bool(loop.ema),
        processes=processes,
        accumulate=loop.accumulate,
    )


def _alone(recipe: Recipe) -> tuple[Objective, Critic | None]:
    """Objective and critic of a model of the recipe's own sizes, without any file."""
    task = TASKS[recipe.task]
    if isinstance(task, NetworkTask):
        return task.objective(recipe.settings, None), task.critic(recipe.settings)
    assert isinstance(task, Task)
    model = SoundingModel(recipe.model).requires_grad_(False)
    context = Context(task.captions(recipe.data), fresh_parts(recipe))
    return task.objective(model, recipe.settings, context), task.critic(recipe.settings)
