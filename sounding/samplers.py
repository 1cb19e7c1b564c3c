"""diffusers' solvers at the steps that we ask for. A module of its own, since it imports diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler


class EvenSolver(DPMSolverMultistepScheduler):
    """Makes exactly the steps asked for, evenly spaced, the first at the noisiest time.

    The library's own spacings do not: "trailing" counts in floating point and makes one step more for 62 of 999
    counts, "leading" rounds the distance down, so that 501 steps begin half-way.
    """

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """The times of `num_inference_steps` steps, from the last of the training down."""
        times = np.linspace(self.config.num_train_timesteps, 0, num_inference_steps, endpoint=False).round() - 1
        super().set_timesteps(device=device, timesteps=times.astype(np.int64).tolist())


class Ddim(EvenSolver):
    """DDIM with eta 0, which is this solver at its first order, down to step 0 as the paper's base model has it.

    (diffusers' own takes all steps for equally long in whole numbers, so it wants counts that divide 1000.)
    """

    def __init__(self, **schedule: Any):
        super().__init__(**schedule, solver_order=1, final_sigmas_type="sigma_min")

    def step(self, *given: Any, **named: Any) -> Any:
        """One step, told by its time alone: the first order remembers nothing of the steps before."""
        self._step_index = self._begin_index = None
        return super().step(*given, **named)
