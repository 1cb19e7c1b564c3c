"""The samplers: DPM-Solver++ 2M (Lu et al. 2022) and its first order, DDIM, at exactly the steps asked for.

Numbers are those of `diffusers.DPMSolverMultistepScheduler`, to the last bit. The code is our own because importing
diffusers' schedulers takes longer than making a sound: they import scipy.stats and the library's other parts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .config import SAMPLERS, DiffusionConfig

RHO = 7.0  # Karras et al. 2022, equation 5


def cumulative_alphas(config: DiffusionConfig) -> Tensor:
    """What is left of the signal's power at each training step: [train_steps] float32."""
    steps = config.train_steps
    if config.beta_schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, steps, dtype=torch.float32)
    elif config.beta_schedule == "scaled_linear":
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=torch.float32) ** 2
    else:  # Nichol and Dhariwal 2021
        left = [math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(steps + 1)]
        betas = torch.tensor([min(1 - left[step + 1] / left[step], 0.999) for step in range(steps)])
    return torch.cumprod(1.0 - betas, dim=0)


def build_sampler(config: DiffusionConfig, name: str) -> Sampler:
    """The sampler `name`: "ddim" (eta 0, to step 0), "dpm++" (2M, to no noise) or "dpm++ karras" (2M, Karras' steps).

    Each makes as many steps as `set_timesteps` is asked for, the first at the noisiest time.

    Raises:
        ValueError: another name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler is {name!r}, but one of {', '.join(SAMPLERS)} is expected.")
    return Sampler(config, order=1 if name == "ddim" else 2, karras=name == "dpm++ karras")


class Sampler:
    """DPM-Solver++ of the first or second order (multistep, midpoint) over noisy latents `alpha * (x + sigma * e)`.

    The first order is DDIM with eta 0, and ends at step 0 as in the paper's base model; the second ends without noise.
    """

    def __init__(self, config: DiffusionConfig, *, order: int, karras: bool = False):
        self.config, self.order, self.karras = config, order, karras
        self.alphas_cumprod = cumulative_alphas(config)
        self.timesteps = torch.zeros(0, dtype=torch.long)
        self.sigmas = torch.zeros(0)
        self._clean: tuple[int, Tensor] | None = None  # what the step before predicted, and its number

    def set_timesteps(self, steps: int, device: torch.device | str | None = None) -> None:
        """Choose `timesteps` [steps] on `device`, from the last training step down, and `sigmas` [steps + 1] on the
        CPU: the noise at each and at the end.
        """
        ratios = ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5
        known = ratios.numpy()
        if self.karras:
            low, high = (float(end) ** (1 / RHO) for end in (known[0], known[-1]))
            sigmas = (high + np.linspace(0, 1, steps) * (low - high)) ** RHO
            times = _times_of(sigmas, np.log(known))
            if self.config.beta_schedule != "squaredcos_cap_v2":
                times = times.round()
        else:
            times = np.linspace(self.config.train_steps, 0, steps, endpoint=False).round() - 1
            sigmas = known[times.astype(np.int64)]
        last = float(known[0]) if self.order == 1 else 0.0
        self.sigmas = torch.from_numpy(np.append(sigmas, last).astype(np.float32))
        self.timesteps = torch.from_numpy(times.astype(np.int64)).to(device)
        self._clean = None

    def add_noise(self, clean: Tensor, noise: Tensor, number: int) -> Tensor:
        """Latents as they are before step `number`."""
        alpha, sigma = _parts(self.sigmas[number].to(clean))
        return alpha * clean + sigma * noise

    def step(self, predicted: Tensor, number: int, noisy: Tensor) -> Tensor:
        """Latents after step `number`, from those before it and from what the network predicts in them."""
        alpha, sigma = _parts(self.sigmas[number])
        if self.config.prediction == "epsilon":
            clean = (noisy - sigma * predicted) / alpha
        else:
            clean = alpha * noisy - sigma * predicted
        alpha_after, sigma_after = _parts(self.sigmas[number + 1])
        log_ratio, log_ratio_after = alpha.log() - sigma.log(), alpha_after.log() - sigma_after.log()
        h = log_ratio_after - log_ratio
        shift = alpha_after * (torch.exp(-h) - 1.0)
        result = (sigma_after / sigma) * noisy - shift * clean
        before, self._clean = self._clean, (number, clean)
        final = number == len(self.timesteps) - 1  # to no noise at all, where the second order has no limit
        if self.order == 2 and before is not None and before[0] == number - 1 and not final:
            alpha_before, sigma_before = _parts(self.sigmas[number - 1])
            ratio = (log_ratio - (alpha_before.log() - sigma_before.log())) / h
            result = result - 0.5 * shift * ((1.0 / ratio) * (clean - before[1]))
        return result


def _parts(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Of noise relative to the signal: the signal's share alpha and the noise's, whose squares add up to 1."""
    alpha = 1 / ((sigma**2 + 1) ** 0.5)
    return alpha, sigma * alpha


def _times_of(sigmas: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Training steps, with fractions, at which the noise is `sigmas`, by linear interpolation of `known` logarithms."""
    logs = np.log(np.maximum(sigmas, 1e-10))
    low = np.cumsum(logs[None] >= known[:, None], axis=0).argmax(axis=0).clip(max=len(known) - 2)
    share = np.clip((known[low] - logs) / (known[low] - known[low + 1]), 0, 1)
    return np.asarray((1 - share) * low + share * (low + 1))
