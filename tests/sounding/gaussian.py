"""A Gaussian as data: its optimal noise predictor and its exact probability flow, to compare samplers with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from sounding.config import DiffusionConfig
from sounding.diffusion import (
    sample_latents,
)

CONFIG = DiffusionConfig()
# The paper's base model: beta linear in its square root; independent of diffusers, in float64.
ALPHAS = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
SHAPE = (2, 4, 3)
MU, S = 0.7, 0.4


class Gaussian:
    """Optimal noise predictor for data from N(MU, S^2): (x - a mu) sigma / (a^2 s^2 + sigma^2)."""

    def __init__(self, prediction: str = "epsilon") -> None:
        self.prediction = prediction
        self.steps: list[int] = []

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> SimpleNamespace:
        self.steps.append(int(timestep))
        square = ALPHAS[int(timestep)]
        a, sigma = square**0.5, (1 - square) ** 0.5
        noise = (sample.double() - a * MU) * sigma / (square * S**2 + sigma**2)
        if self.prediction == "v_prediction":  # v = a noise - sigma x0, with x0 = (x - sigma noise) / a
            noise = a * noise - sigma * (sample.double() - sigma * noise) / a
        return SimpleNamespace(sample=noise.to(sample.dtype))


def exact(noise: torch.Tensor, first: int, last: float) -> torch.Tensor:
    """Where the probability-flow ODE takes `noise` from step `first` to the signal level `last` (alpha-bar).

    The marginal of a Gaussian stays one, N(a mu, a^2 s^2 + sigma^2), and the flow keeps quantiles.
    """
    start = ALPHAS[first]
    quantile = (noise.double() - start**0.5 * MU) / (start * S**2 + 1 - start) ** 0.5
    return last**0.5 * MU + (last * S**2 + 1 - last) ** 0.5 * quantile


def with_last_jump(noise: torch.Tensor, steps: list[int]) -> torch.Tensor:
    """The exact flow to the last step, then what is expected of x0 there: these solvers end with a jump."""
    square = ALPHAS[steps[-1]]
    noisy = exact(noise, steps[0], square)
    return (MU * (1 - square) + S**2 * square**0.5 * noisy) / (square * S**2 + 1 - square)


def run(denoiser: object, noise: torch.Tensor, **options: object) -> torch.Tensor:
    condition = torch.zeros(len(noise), 1, 4)
    settings: dict = {"steps": 25, "cfg": 1.0, "sampler": "ddim", **options}
    return sample_latents(denoiser, noise, condition, condition, CONFIG, **settings)  # type: ignore[arg-type]
