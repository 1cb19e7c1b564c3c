"""The samplers: diffusers' solvers, at exactly the steps asked for.

Its classes derive from diffusers', so importing this module imports diffusers; `diffusion` does so when it samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from .config import SAMPLERS, DiffusionConfig


def build_sampler(config: DiffusionConfig, name: str) -> Any:
    """The sampler `name`: "ddim" (eta 0, to step 0), "dpm++" (2M, to no noise) or "dpm++ karras" (2M, Karras' steps).

    Each makes as many steps as `set_timesteps` is asked for, the first at the noisiest time.

    Raises:
        ValueError: another name.
    """
    if name == "ddim":
        return Ddim(**config.schedule)
    if name == "dpm++":
        return EvenSolver(**config.schedule)
    if name == "dpm++ karras":
        return DPMSolverMultistepScheduler(**config.schedule, use_karras_sigmas=True)
    raise ValueError(f"sampler is {name!r}, but one of {', '.join(SAMPLERS)} is expected.")


class EvenSolver(DPMSolverMultistepScheduler):
    """Makes exactly the steps asked for, evenly spaced, the first at the noisiest time.

    The library's own spacings do not: "trailing" counts in floating point and makes one step too many for 62 of 999
    counts, "leading" rounds the spacing down, so that 501 steps begin half-way.
    """

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """The times of `num_inference_steps` steps, from the last training step down."""
        times = np.linspace(self.config.num_train_timesteps, 0, num_inference_steps, endpoint=False).round() - 1
        super().set_timesteps(device=device, timesteps=times.astype(np.int64).tolist())


class Ddim(EvenSolver):
    """DDIM with eta 0, which is this solver at its first order, down to step 0 as in the paper's base model.

    (diffusers' own DDIM spaces all steps by one whole number, so it needs counts that divide 1000.)
    """

    def __init__(self, **schedule: Any):
        super().__init__(**schedule, solver_order=1, final_sigmas_type="sigma_min")

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One step, looked up by its time alone: a first-order solver keeps no state of earlier steps."""
        self._step_index = self._begin_index = None
        return super().step(*args, **kwargs)
