"""Guidance, starting part-way, noise and its seeds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sounding.config import SAMPLERS, DiffusionConfig
from sounding.diffusion import (
    draw_noise,
    guided_noise,
    item_seeds,
    sample_latents,
)
from sounding.model import SoundingModel
from sounding.samplers import build_sampler

from .gaussian import ALPHAS, CONFIG, SHAPE, Gaussian, exact, run, with_last_jump


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


def test_the_former_spelling_of_the_sampler(tiny_model: SoundingModel) -> None:
    """`scheduler` goes on working; with both there is no telling which one is meant."""
    inputs = {"image": torch.rand(1, 40, 40, 3), "mask": torch.ones(1, 40, 40), "seconds": 0.3, "steps": 2}
    new = tiny_model.generate(**inputs, sampler="ddim").waveform
    assert torch.equal(tiny_model.generate(**inputs, scheduler="ddim").waveform, new)
    assert not torch.equal(tiny_model.generate(**inputs, sampler="dpm++").waveform, new)
    condition = tiny_model.ground(tiny_model.see(inputs["image"]), mask=inputs["mask"])
    with pytest.raises(ValueError, match=r"sampler is 'ddim' and scheduler 'dpm\+\+'.*give sampler alone"):
        tiny_model.sample(condition, tiny_model.noise(0.3, [0]), sampler="ddim", scheduler="dpm++")
