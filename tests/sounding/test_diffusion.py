"""Guidance and samplers against equations and a Gaussian whose exact solution is known."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sounding.config import SAMPLERS, DiffusionConfig
from sounding.diffusion import (
    build_noise_schedule,
    draw_noise,
    guided_noise,
    item_seeds,
    sample_latents,
)
from sounding.samplers import build_sampler

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


class Counting:
    """Predicts from the condition only, and keeps the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> SimpleNamespace:
        self.batches.append(len(sample))
        return SimpleNamespace(sample=sample * encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1))


@pytest.mark.parametrize("cfg", [0.0, 2.0, 4.5])
def test_guidance_is_equation_2_in_one_batch(cfg: float) -> None:
    noisy, denoiser = torch.randn(3, *SHAPE), Counting()
    condition, null = torch.randn(3, 2, 4), torch.randn(1, 1, 4).expand(3, 2, 4)
    guided = guided_noise(denoiser, noisy, torch.tensor(5), condition, null, cfg)
    wanted = condition.double().mean(dim=(1, 2)).view(3, 1, 1, 1)
    unwanted = null.double().mean(dim=(1, 2)).view(3, 1, 1, 1)
    expected = noisy.double() * (cfg * wanted + (1 - cfg) * unwanted)
    torch.testing.assert_close(guided.double(), expected, atol=1e-5, rtol=1e-5)
    assert denoiser.batches == [6]


def test_without_guidance_only_the_conditional_half_runs() -> None:
    noisy, denoiser = torch.randn(3, *SHAPE), Counting()
    condition = torch.randn(3, 1, 4)
    guided = guided_noise(denoiser, noisy, torch.tensor(5), condition, torch.full((3, 1, 4), torch.nan), 1.0)
    assert denoiser.batches == [3]
    torch.testing.assert_close(guided, noisy * condition.mean(dim=(1, 2)).view(3, 1, 1, 1))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_one_call_of_the_denoiser_a_step(cfg: float) -> None:
    denoiser = Counting()
    run(denoiser, draw_noise(SHAPE, [0, 1]), steps=7, cfg=cfg)
    assert denoiser.batches == [2 if cfg == 1 else 4] * 7


@pytest.mark.parametrize(
    ("steps", "denoise", "done"), [(10, 0.5, 5), (10, 0.31, 3), (10, 0.01, 1), (1, 0.5, 1), (10, 1.0, 10)]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_denoise_starts_part_way(sampler: str, steps: int, denoise: float, done: int) -> None:
    solver = build_sampler(CONFIG, sampler)
    solver.set_timesteps(steps)
    calls: list[tuple[int, int]] = []
    denoiser = Gaussian()
    noise = draw_noise(SHAPE, [0, 1])
    run(
        denoiser,
        noise,
        steps=steps,
        sampler=sampler,
        denoise=denoise,
        latents=torch.zeros(2, *SHAPE),
        on_step=lambda *counts: calls.append(counts),
    )
    assert denoiser.steps == solver.timesteps.tolist()[steps - done :]
    assert calls == [(index, done) for index in range(1, done + 1)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_denoise_starts_from_the_noised_latents(sampler: str) -> None:
    """Half-way from given latents ends where the exact flow from the noised latents does."""
    noise, clean = draw_noise(SHAPE, [0, 1]), torch.randn(2, *SHAPE)
    denoiser = Gaussian()
    sample = run(denoiser, noise, steps=200, sampler=sampler, denoise=0.5, latents=clean)
    first = denoiser.steps[0]
    start = ALPHAS[first] ** 0.5 * clean.double() + (1 - ALPHAS[first]) ** 0.5 * noise
    expected = exact(start, first, ALPHAS[0]) if sampler == "ddim" else with_last_jump(start, denoiser.steps)
    torch.testing.assert_close(sample.double(), expected, atol=0.05, rtol=0)
    assert not torch.allclose(sample.double(), exact(noise, first, ALPHAS[0]), atol=0.1)  # the latents matter


def test_full_denoise_forgets_the_latents() -> None:
    noise = draw_noise(SHAPE, [0])
    assert torch.equal(run(Gaussian(), noise, latents=torch.randn(1, *SHAPE)), run(Gaussian(), noise))


class CancelledError(Exception):
    pass


def test_raising_in_on_step_cancels() -> None:
    denoiser = Counting()

    def cancel(done: int, steps: int) -> None:
        if done == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        run(denoiser, draw_noise(SHAPE, [0]), steps=10, on_step=cancel)
    assert len(denoiser.batches) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps is 1000"),
        ({"cfg": -1.0}, "cfg is -1"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"cfg": float("inf")}, "cfg is inf"),
        ({"denoise": 0.0}, "denoise is 0"),
        ({"denoise": 1.5}, "denoise is 1.5"),
        ({"sampler": "euler"}, "sampler is 'euler'.*ddim, dpm"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(Counting(), draw_noise(SHAPE, [0]), **options)


def test_noise_of_an_item_does_not_depend_on_its_batch() -> None:
    together = draw_noise(SHAPE, [4, 5, 6])
    for index, seed in enumerate((4, 5, 6)):
        assert torch.equal(together[index], draw_noise(SHAPE, [seed])[0])
    assert not torch.equal(together[0], together[1])


def test_noise_of_five_seconds_is_one_draw() -> None:
    """As it was before longer and shorter sounds began alike: seeds go on meaning the same sounds."""
    shape = (8, 128, 16)
    assert torch.equal(draw_noise(shape, [7])[0], torch.randn(shape, generator=torch.Generator().manual_seed(7)))


def test_a_longer_sound_begins_with_the_noise_of_a_shorter_one() -> None:
    longest = draw_noise((8, 500, 16), [7])
    for frames in (1, 5, 64, 100, 128, 129, 255, 256, 300):
        assert torch.equal(draw_noise((8, frames, 16), [7]), longest[:, :, :frames])
    assert abs(float(longest.mean())) < 0.02
    assert float(longest.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(longest[:, :, :128], longest[:, :, 128:256])


def test_seeds_of_a_batch_count_on_and_start_again_beyond_the_last() -> None:
    assert item_seeds(2**64 - 2, range(3)) == [2**64 - 2, 2**64 - 1, 0]
    assert item_seeds(5, [2, 0]) == [7, 5]
    together = draw_noise(SHAPE, item_seeds(2**64 - 1, range(2)))
    assert torch.equal(together, draw_noise(SHAPE, [2**64 - 1, 0]))
    for seed in (-1, 2**64, 10**30):
        with pytest.raises(ValueError, match=f"seed is {seed}, but 0 to 18446744073709551615"):
            item_seeds(seed, range(1))


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    draw_noise(SHAPE, [1, 2])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_only_what_is_to_be_renewed_changes(sampler, denoise, prediction) -> None:
    noise, old = draw_noise(SHAPE, [0, 1]), 5 + draw_noise(SHAPE, [2, 3])
    config = DiffusionConfig(prediction=prediction)
    seen: list[torch.Tensor] = []

    class Seeing(Gaussian):
        def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            square = ALPHAS[int(timestep)]
            seen.append((sample.double() - (1 - square) ** 0.5 * noise) / square**0.5)
            return super().__call__(sample, timestep, encoder_hidden_states)

    def sample(renew: torch.Tensor | None) -> torch.Tensor:
        seen.clear()
        condition = torch.zeros(2, 1, 4)
        settings = {"steps": 10, "cfg": 1.0, "sampler": sampler, "denoise": denoise}
        return sample_latents(
            Seeing(prediction), noise, condition, condition, config, latents=old, renew=renew, **settings
        )  # type: ignore[arg-type]

    half = torch.zeros(1, 1, 4, 3)
    half[:, :, 2:] = 1
    made = sample(half)
    assert torch.equal(made[:, :, :2], old[:, :, :2])
    assert (made - old)[:, :, 2:].abs().mean() > 1
    # All the way the network sees what is to stay as it is, under as much noise as the rest.
    for each in seen:
        torch.testing.assert_close(each[:, :, :2], old[:, :, :2].double(), rtol=0, atol=0.6)
    # Cells of this Gaussian know nothing of each other: those renewed are what they are where all are.
    torch.testing.assert_close(made[:, :, 2:], sample(None)[:, :, 2:])
    assert torch.equal(sample(torch.zeros(1, 1, 4, 3)), old)
    torch.testing.assert_close(sample(torch.ones(1, 1, 4, 3)), sample(None), rtol=0, atol=0)
