"""All that changes while a run trains: what its states keep, and what one step of optimisation moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .objective import Critic, Objective
from .optimization import TrainedModule, learning_rate
from .settings import LoopConfig

MOST_SKIPPED = 40  # steps in a row; each halves the loss scale, which begins at 2^16


class RunningAverage(EMAModel):
    """diffusers' average, in one pass over the weights: its own step makes a second copy of all of them each time."""

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average towards parameters that all learn."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - self.cur_decay_value)


class TrainingState:
    """Objective and critic with their optimisers, the running average of the weights, the loss scaler of float16, and
    the best validation loss so far.
    """

    def __init__(
        self, objective: Objective, critic: Critic | None, loop: LoopConfig, steps: int, accelerator: Accelerator
    ):
        if loop.gradient_checkpointing:
            objective.checkpoint_gradients()
        self.loop, self.steps, self.accelerator = loop, steps, accelerator
        self.objective = TrainedModule(objective, loop, accelerator)
        objective.place(accelerator.device)
        self.critic = TrainedModule(critic, loop, accelerator) if critic is not None else None
        parameters = self.objective.parameters
        self.average = RunningAverage(parameters, decay=loop.ema, foreach=True) if loop.ema else None
        self.skipped = self.skipped_in_a_row = 0
        self.validated, self.best_step, self.best_loss = 0, 0, math.inf  # the last validation, and the best

    def state(self) -> dict[str, Any]:
        """For `States.save`."""
        scaler = self.accelerator.scaler
        return {
            "learner": self.objective.state(),
            "critic": self.critic.state() if self.critic else None,
            "average": self.average.state_dict() if self.average else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "skipped": (self.skipped, self.skipped_in_a_row),
            "validation": (self.validated, self.best_step, self.best_loss),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, or an earlier version of it."""
        self.objective.load(state["learner"])
        if self.critic is not None:
            self.critic.load(state["critic"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            self.average.to(self.accelerator.device)
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.skipped, self.skipped_in_a_row = state.get("skipped", (0, 0))
        self.validated, self.best_step, self.best_loss = state.get("validation", (0, 0, math.inf))

    def update(self, step: int) -> dict[str, Tensor | float]:
        """Move weights and average along the gradients that are there; gives the step's figures.

        A step whose float16 gradients overflowed is skipped: weights, average and schedule stay where they are, and
        the loss scale falls. After `MOST_SKIPPED` in a row the gradient's norm is given as it is, not finite.
        """
        rate = learning_rate(step - self.skipped, self.steps, self.loop)
        figures: dict[str, Tensor | float] = {"gradient": self.objective.step(rate), "rate": rate}
        if self.critic is not None:
            self.critic.step(rate)
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.update()
            figures["loss_scale"] = scaler.get_scale()
            if not torch.isfinite(torch.as_tensor(figures["gradient"])):
                self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
                if self.skipped_in_a_row <= MOST_SKIPPED:
                    del figures["gradient"]
                return figures
            self.skipped_in_a_row = 0
        if self.average is not None:
            self.average.step(self.objective.parameters)
        return figures

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The running average in place of the weights, if there is one, and evaluation mode."""
        objective, parameters = self.objective.module, self.objective.parameters
        objective.eval()
        if self.average is None:
            yield
            return
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def finish(self) -> None:
        """Leave the weights to keep in the objective, in evaluation mode."""
        if self.average is not None:
            self.average.copy_to(self.objective.parameters)
        self.objective.module.eval()
