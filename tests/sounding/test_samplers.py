"""Samplers against their equations and the exact flow of a Gaussian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sounding.config import SAMPLERS, DiffusionConfig
from sounding.diffusion import (
    build_noise_schedule,
    draw_noise,
    sample_latents,
)
from sounding.samplers import build_sampler

from .gaussian import ALPHAS, CONFIG, MU, SHAPE, Gaussian, S, exact, run, with_last_jump


def error(sampler: str, steps: int) -> float:
    noise = draw_noise(SHAPE, [0, 1])
    denoiser = Gaussian()
    sample = run(denoiser, noise, sampler=sampler, steps=steps)
    if sampler == "ddim":  # stops at step 0
        return float((sample - exact(noise, denoiser.steps[0], ALPHAS[0])).abs().max())
    return float((sample - with_last_jump(noise, denoiser.steps)).abs().max())


def test_noise_schedule_is_the_base_models() -> None:
    np.testing.assert_allclose(build_noise_schedule(CONFIG).alphas_cumprod.numpy(), ALPHAS, rtol=2e-4)
    for name in SAMPLERS:
        np.testing.assert_allclose(build_sampler(CONFIG, name).alphas_cumprod.numpy(), ALPHAS, rtol=2e-4)


def test_training_noise_is_the_forward_process() -> None:
    clean, noise = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    steps = torch.tensor([0, 500, 999])
    noisy = build_noise_schedule(CONFIG).add_noise(clean, noise, steps)
    level = torch.from_numpy(ALPHAS[steps.numpy()]).view(3, 1, 1, 1)
    expected = level.sqrt() * clean.double() + (1 - level).sqrt() * noise.double()
    torch.testing.assert_close(noisy.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_steps_are_even(name: str) -> None:
    sampler = build_sampler(CONFIG, name)
    for steps, times in {25: range(999, 0, -40), 200: range(999, 0, -5)}.items():
        sampler.set_timesteps(steps)
        assert sampler.timesteps.tolist() == list(times)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_asked_are_steps_made_from_the_noisiest(name: str) -> None:
    """For every count. Karras' steps have noise levels of their own, but times rounded to the training's (and take
    the library so long that not all are tried)."""
    sampler = build_sampler(CONFIG, name)
    for steps in range(1, 1000, 7 if name == "dpm++ karras" else 1):
        sampler.set_timesteps(steps)
        times, sigmas = sampler.timesteps.numpy(), sampler.sigmas.numpy()
        assert len(times) == steps, steps
        assert times[0] == 999, steps
        assert times[-1] >= 0, steps
        assert (np.diff(times) <= (0 if name == "dpm++ karras" else -1)).all(), steps
        assert len(sigmas) == steps + 1, steps
        assert sigmas[0] == pytest.approx(((1 - ALPHAS[999]) / ALPHAS[999]) ** 0.5, rel=1e-3), steps
        assert np.isfinite(sigmas).all(), steps
        assert (np.diff(sigmas) <= 0).all(), steps


@pytest.mark.parametrize("steps", [1, 2, 7, 61, 103, 121, 334, 501, 999])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_count_runs_to_its_end(name: str, steps: int) -> None:
    denoiser, noise = Gaussian(), draw_noise(SHAPE, [0])
    sample = run(denoiser, noise, steps=steps, sampler=name)
    assert len(denoiser.steps) == steps
    assert denoiser.steps[0] == 999
    assert torch.isfinite(sample).all()
    if steps > 60:
        expected = exact(noise, 999, ALPHAS[0]) if name == "ddim" else with_last_jump(noise, denoiser.steps)
        torch.testing.assert_close(sample.double(), expected, atol=0.13, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 61, 200, 334, 501, 999])
def test_ddim_is_its_equation(steps: int) -> None:
    """Eta 0: x' = a' (x - sigma e) / a + sigma' e from step to step, in float64, down to step 0."""
    denoiser, noise = Gaussian(), draw_noise(SHAPE, [0, 1])
    sample = run(denoiser, noise, steps=steps)
    noisy, levels = noise.double(), [*ALPHAS[denoiser.steps], ALPHAS[0]]
    for now, following in itertools.pairwise(levels):
        predicted = (noisy - now**0.5 * MU) * (1 - now) ** 0.5 / (now * S**2 + 1 - now)
        clean = (noisy - (1 - now) ** 0.5 * predicted) / now**0.5
        noisy = following**0.5 * clean + (1 - following) ** 0.5 * predicted
    torch.testing.assert_close(sample.double(), noisy, atol=1e-3, rtol=1e-3)


def test_ddim_follows_the_exact_flow() -> None:
    assert error("ddim", 500) < 0.02
    assert error("ddim", 200) < 0.04  # the paper's steps
    assert error("ddim", 25) > 2 * error("ddim", 200)  # and it does converge, not merely pass


@pytest.mark.parametrize("sampler", ["dpm++", "dpm++ karras"])
def test_dpm_solver_needs_few_steps(sampler: str) -> None:
    assert error(sampler, 100) < 0.02
    assert error(sampler, 25) < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_v_prediction_gives_the_same_samples(sampler: str) -> None:
    noise, condition = draw_noise(SHAPE, [0]), torch.zeros(1, 1, 4)
    config = DiffusionConfig(prediction="v_prediction")
    velocity = sample_latents(
        Gaussian("v_prediction"), noise, condition, condition, config, steps=20, cfg=1.0, sampler=sampler
    )
    torch.testing.assert_close(velocity, run(Gaussian(), noise, steps=20, sampler=sampler), atol=2e-3, rtol=0)
