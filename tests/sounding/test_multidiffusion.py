"""Sounds longer than the training's clips: windows, their blend, lengths to the sample."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sounding.config import DiffusionConfig
from sounding.diffusion import draw_noise, sample_latents
from sounding.model import SoundingModel
from sounding.multidiffusion import WindowedDenoiser, blend, in_windows, window_starts, window_weights
from sounding.samplers import build_sampler

RATE = 16_000


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(256, 64, 32), (68, 64, 32), (64, 64, 16), (40, 64, 32), (1000, 64, 9)]
)
def test_windows_cover_all_and_overlap(length: int, window: int, overlap: int) -> None:
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window == max(length, window)
    assert all(0 < after - before <= window - overlap for before, after in itertools.pairwise(starts))
    assert len(starts) <= max(1, -(-(length - overlap) // (window - overlap)))  # and no more of them than needed


def test_windows_must_go_on() -> None:
    with pytest.raises(ValueError, match="overlap is 64 in windows of 64"):
        window_starts(100, 64, 64)


@pytest.mark.parametrize("margin", [0, 3])
def test_parts_of_one_signal_blend_to_it(margin: int) -> None:
    signal = torch.randn(2, 100, 3)
    starts = window_starts(100, 32, 12)
    parts = [signal[:, start : start + 32] for start in starts]
    torch.testing.assert_close(blend(parts, starts, 12, margin), signal)


def test_blend_is_the_least_squares_solution() -> None:
    """MultiDiffusion's equation 5: the J that minimises sum_i ||W_i (F_i(J) - part_i)||^2, solved as such."""
    starts, overlap = [0, 5, 9], 4
    parts = [torch.randn(1, 10, 1) for _ in starts]
    rows, wanted = [], []
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        weights = window_weights(10, overlap, first=number == 0, last=number == 2).double().sqrt().numpy()
        for place in range(10):
            row = np.zeros(19)
            row[start + place] = weights[place]
            rows.append(row)
            wanted.append(weights[place] * float(part[0, place, 0]))
    solution = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    np.testing.assert_allclose(blend(parts, starts, overlap)[0, :, 0].numpy(), solution, atol=1e-5)


def test_what_a_window_sees_badly_does_not_count() -> None:
    """A running mean over 9 samples is wrong at a window's edges (it sees zeros there); the margin leaves those out."""
    signal = torch.randn(1, 200, 1)

    def mean(values: torch.Tensor) -> torch.Tensor:
        smooth = torch.nn.functional.avg_pool1d(values[..., 0], 9, 1, 4)
        return smooth.repeat_interleave(2, dim=1)[..., None]  # two samples out for one in

    whole = mean(signal)
    torch.testing.assert_close(in_windows(mean, signal, 50, 16, margin=4), whole)
    assert not torch.allclose(in_windows(mean, signal, 50, 16), whole, atol=1e-3)
    assert torch.equal(in_windows(mean, signal[:, :50], 50, 16, margin=4), mean(signal[:, :50]))


class Local:
    """Predicts each frame from itself, its step and the condition; keeps the shapes that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor) -> Any:
        self.shapes.append(tuple(sample.shape))
        shift = encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=torch.tanh(sample) + shift + timestep / 1000)


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_a_local_denoiser_does_not_notice_windows(cfg: float) -> None:
    noise, condition, null = draw_noise((2, 70, 3), [0, 1, 2]), torch.randn(3, 1, 4), torch.zeros(3, 1, 4)
    settings: dict[str, Any] = {"steps": 6, "cfg": cfg, "sampler": "dpm++"}
    windowed, whole = Local(), Local()
    made = sample_latents(WindowedDenoiser(windowed, 16, 8), noise, condition, null, DiffusionConfig(), **settings)
    expected = sample_latents(whole, noise, condition, null, DiffusionConfig(), **settings)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert {shape[2] for shape in windowed.shapes} == {16}


def test_averaging_predictions_averages_steps() -> None:
    """MultiDiffusion averages each window's step; with DDIM that is the step of the average prediction."""
    sampler = build_sampler(DiffusionConfig(), "ddim")
    sampler.set_timesteps(20)
    noisy, step = torch.randn(1, 2, 24, 3), sampler.timesteps[5]
    starts, parts = window_starts(24, 16, 8), [torch.randn(1, 16, 2, 3) for _ in range(2)]
    together = sampler.step(blend(parts, starts, 8).transpose(1, 2), step, noisy).prev_sample
    steps = [
        sampler.step(part.transpose(1, 2), step, noisy[:, :, start : start + 16]).prev_sample.transpose(1, 2)
        for start, part in zip(starts, parts, strict=True)
    ]
    torch.testing.assert_close(blend(steps, starts, 8).transpose(1, 2), together, atol=1e-5, rtol=1e-5)


def generate(model: SoundingModel, seconds: float, **options: Any) -> torch.Tensor:
    image = torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(0))
    return model.generate(image=image, mask=torch.ones(1, 60, 80), seconds=seconds, **{"steps": 2, **options}).waveform


@pytest.mark.parametrize("seconds", [0.3, 1.28])
def test_nothing_changes_up_to_the_training_length(tiny_model: SoundingModel, seconds: float) -> None:
    """Not by one bit, however short the windows that are asked for."""
    whole = generate(tiny_model, seconds, window=1e6)
    assert torch.equal(generate(tiny_model, seconds, window=0.1), whole)
    assert torch.equal(generate(tiny_model, seconds), whole)


def test_windows_of_seconds(tiny_model: SoundingModel) -> None:
    shapes: list[tuple[int, ...]] = []
    handle = tiny_model.unet.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        windowed = generate(tiny_model, 5.0, steps=1, window=0.1)
        assert set(shapes) == {(2, 8, 32, 16)}  # the training's 1.28 s are the shortest
        shapes.clear()
        whole = generate(tiny_model, 5.0, steps=1)
        assert set(shapes) == {(2, 8, 126, 16)}
    finally:
        handle.remove()
    assert (windowed - whole).abs().max() > 1e-4


def test_no_network_sees_more_than_a_window_of_a_very_long_sound(tiny_model: SoundingModel) -> None:
    frames = tiny_model.window_frames
    assert frames == 2048
    seen: dict[str, set[int]] = {}
    modules = {
        "unet": (tiny_model.unet, 2),
        "encoder": (tiny_model.vae.encoder, 2),
        "decoder": (tiny_model.vae.decoder, 2),
    }
    modules["vocoder"] = (tiny_model.vocoder, 1)

    def watch(name: str, axis: int) -> Any:
        return lambda module, inputs: seen.setdefault(name, set()).add(inputs[0].shape[axis])

    handles = [module.register_forward_pre_hook(watch(name, axis)) for name, (module, axis) in modules.items()]
    try:
        sound = generate(tiny_model, 30.0, steps=1)
        latents = tiny_model.encode(sound[:, 0])
    finally:
        for handle in handles:
            handle.remove()
    assert sound.shape == (1, 1, 480_000)
    assert latents.shape == (1, 8, 750, 16)
    assert seen == {"unet": {512}, "decoder": {512}, "encoder": {2048}, "vocoder": {2048}}


def test_a_vocoder_in_windows_is_the_vocoder(tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = copy.deepcopy(tiny_model.vocoder).double()  # random weights make much of float32's rounding
    monkeypatch.setattr(tiny_model, "_modules", {**tiny_model._modules, "vocoder": vocoder})
    mel = 2 * torch.randn(1, 400, 64) - 5
    whole = tiny_model.vocode(mel)
    monkeypatch.setattr(SoundingModel, "window_frames", 128)
    torch.testing.assert_close(tiny_model.vocode(mel), whole, atol=1e-6, rtol=1e-5)


def test_coding_in_windows_keeps_places(tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder and a decoder that look at one place only, windows are not to be noticed."""
    pool = torch.nn.functional.avg_pool2d
    local = SimpleNamespace(
        dtype=torch.float32,
        device=torch.device("cpu"),
        parameters=tiny_model.vae.parameters,
        encode=lambda mel: SimpleNamespace(latent_dist=SimpleNamespace(mean=pool(mel, 4).expand(-1, 8, -1, -1))),
        decode=lambda latents: SimpleNamespace(sample=latents[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)),
    )
    monkeypatch.setattr(tiny_model, "_modules", {**tiny_model._modules, "vae": local})
    sound = torch.randn(1, 16_000 * 4)
    latents = tiny_model.encode(sound)
    mel = tiny_model.decode(latents)
    monkeypatch.setattr(SoundingModel, "window_frames", 128)
    torch.testing.assert_close(tiny_model.encode(sound), latents)
    torch.testing.assert_close(tiny_model.decode(latents), mel)


def test_a_long_item_does_not_depend_on_its_batch(tiny_model: SoundingModel) -> None:
    together = generate(tiny_model, 2.0, batch=2, seed=5, window=1.28)
    alone = generate(tiny_model, 2.0, seed=6, window=1.28)[0]
    torch.testing.assert_close(together[1], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("seconds", "level"), [(1.0, True), (2.555, False), (7.3, True), (20.0, True), (22.001, False)]
)
def test_lengths_to_the_sample(tiny_model: SoundingModel, seconds: float, level: bool) -> None:
    sound = generate(tiny_model, seconds, steps=1, level=level)
    assert sound.shape == (1, 1, round(seconds * RATE))
    quarters = sound[0, 0].tensor_split(4)
    assert min(float(quarter.std()) for quarter in quarters) > 0.2 * float(sound.std())  # to the end
