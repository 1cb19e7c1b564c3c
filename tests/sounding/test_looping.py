"""Loops: time is a circle for sampler, VAE, vocoder, leveling and places; lengths; and whether seams are heard."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sounding.audio.loudness import LOUDNESS, level, loudness
from sounding.audio.placing import Place, Room, place_tracks
from sounding.audio.resampling import resample
from sounding.audio.seams import change_at
from sounding.diffusion import draw_noise
from sounding.images.files import read_image, read_mask
from sounding.looping import CircularDenoiser, WrappedDenoiser, around, stretched
from sounding.model import Sound, SoundingModel, load
from sounding.multidiffusion import WindowedDenoiser
from training.starter.evaluate.audio_quality import check_sound

INPUT = Path(__file__).parents[2] / "example_workflows" / "input"
RATE = 16_000
ROLL = 12  # latent frames, a multiple of the tiny U-Net's stride


@pytest.fixture(scope="module")
def condition(tiny_model: SoundingModel) -> Any:
    image = torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(0))
    return tiny_model.ground(tiny_model.see(image), mask=torch.ones(1, 60, 80))


@pytest.mark.parametrize("window", [20.48, 1.28])
def test_a_rolled_noise_makes_the_same_latents_rolled(tiny_model: SoundingModel, condition: Any, window: float) -> None:
    """No place is a border: with one window exactly, with windows of 32 frames and rolls by their hop too."""
    frames, roll = (64, ROLL) if window > 20 else (96, 24)
    noise = draw_noise((8, frames, 16), [3])

    def sample(given: Tensor, loop: bool) -> Tensor:
        return tiny_model.sample(condition, given, steps=3, window=window, loop=loop)

    straight = sample(noise, loop=True).roll(roll, dims=2)
    torch.testing.assert_close(sample(noise.roll(roll, dims=2), loop=True), straight, atol=2e-3, rtol=1e-2)
    assert (sample(noise.roll(roll, dims=2), loop=False) - straight).abs().max() > 0.01


def test_decoding_and_vocoding_are_on_a_circle(tiny_model: SoundingModel) -> None:
    latents = torch.randn(1, 8, 24, 16)
    mel = tiny_model.decode(latents, loop=True)
    rolled = tiny_model.decode(latents.roll(ROLL, dims=2), loop=True)
    # Group norms of the VAE see the margins as well, so equal up to those; without a circle the ends differ by more.
    plain = tiny_model.decode(latents.roll(ROLL, dims=2))
    assert mel.shape == (1, 96, 64)
    circle, ends = ((each.roll(-4 * ROLL, dims=1) - mel).abs().mean() for each in (rolled, plain))
    assert circle < 0.2 * ends
    mel = 2 * torch.randn(1, 96, 64) - 5
    wave = tiny_model.vocode(mel, loop=True)
    torch.testing.assert_close(
        tiny_model.vocode(mel.roll(7, dims=1), loop=True), wave.roll(1120, dims=2), atol=1e-4, rtol=0
    )


def test_conv_modules_are_as_before(tiny_model: SoundingModel) -> None:
    """The circle holds within a call of its own alone, and for convolutions with keywords as well."""
    conv = torch.nn.Conv2d(2, 3, 3, padding=1, stride=2)
    maps = torch.randn(1, 2, 8, 6)
    before = conv(maps)

    def denoiser(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        return SimpleNamespace(sample=(conv(sample), torch.conv2d(input=sample, weight=conv.weight, padding=1)))

    strided, keyword = CircularDenoiser(denoiser)(maps, torch.tensor(1), maps).sample  # type: ignore[misc]
    tripled = conv(maps.repeat(1, 1, 3, 1))
    torch.testing.assert_close(strided, tripled[:, :, 4:8])
    torch.testing.assert_close(keyword, torch.conv2d(maps.repeat(1, 1, 3, 1), conv.weight, padding=1)[:, :, 8:16])
    assert torch.equal(conv(maps), before)


def test_windows_on_a_circle_are_not_noticed_by_a_local_denoiser() -> None:
    def local(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        return SimpleNamespace(sample=torch.tanh(sample))

    noise = torch.randn(2, 3, 70, 4)
    made = WrappedDenoiser(WindowedDenoiser(local, 16, 8), 8)(noise, torch.tensor(1), noise).sample
    torch.testing.assert_close(made, torch.tanh(noise))


def test_around_a_running_mean_has_no_ends() -> None:
    signal = torch.randn(1, 40, 3)

    def mean(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values.transpose(1, 2), (4, 4))
        return torch.nn.functional.avg_pool1d(padded, 9, 1).transpose(1, 2).repeat_interleave(2, dim=1)

    expected = mean(signal.repeat(1, 3, 1))[:, 80:160]
    torch.testing.assert_close(around(mean, signal, 4), expected)
    torch.testing.assert_close(around(mean, signal[:, :2], 4), mean(signal[:, :2].repeat(1, 9, 1))[:, 16:20])


def test_stretching_keeps_a_circle() -> None:
    angle = 2 * torch.pi * torch.arange(64) / 64
    wanted = torch.cos(2 * torch.pi * torch.arange(50) / 50)
    made = stretched(torch.cos(angle)[None, :, None], 50)
    torch.testing.assert_close(made[0, :, 0], wanted, atol=2e-3, rtol=0)


def generate(model: SoundingModel, **options: Any) -> Sound:
    image = torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(0))
    return model.generate(image=image, mask=torch.ones(1, 60, 80), loop=True, **{"steps": 2, **options})


@pytest.mark.parametrize(("seconds", "samples"), [(0.1, 1600), (1.0, 16_000), (1.234, 19_680), (5.0, 80_000)])
def test_lengths_are_whole_frames(tiny_model: SoundingModel, seconds: float, samples: int) -> None:
    sound = generate(tiny_model, seconds=seconds)
    assert sound.waveform.shape == (1, 1, samples)
    assert sound.mel.shape == (1, samples // 160, 64)
    assert float(loudness(sound.waveform, RATE)) == pytest.approx(LOUDNESS, abs=0.5)


def test_items_of_a_batch_are_those_alone(tiny_model: SoundingModel) -> None:
    together, alone = generate(tiny_model, seconds=1.0, batch=2, seed=5), generate(tiny_model, seconds=1.0, seed=6)
    torch.testing.assert_close(together.waveform[1], alone.waveform[0], atol=1e-4, rtol=1e-3)


def test_a_loop_does_not_fade(tiny_model: SoundingModel) -> None:
    wave = 0.3 * torch.cos(2 * torch.pi * 100 * torch.arange(8000) / RATE) + 0.05
    made = level(wave, RATE, loop=True)
    assert float(made.mean()) == pytest.approx(0, abs=1e-6)
    assert float(made[0] / made.max()) == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match=r"fade_out is 1\.0 for a loop, which does not end; leave it out"):
        generate(tiny_model, seconds=0.5, fade_out=1.0)


def test_what_rings_on_beyond_a_placed_loops_end_is_at_its_beginning() -> None:
    waves, rate = torch.randn(1, 1, 1601), RATE
    places, room = [Place(0.7, 3.0)], Room(delay=True, reflections=0.5)
    made = place_tracks(waves, rate, places, room, loop=True)
    long, cut = place_tracks(waves.repeat(1, 1, 5), rate, places, room), place_tracks(waves, rate, places, room)
    torch.testing.assert_close(made, long[..., 2 * 1601 : 3 * 1601], atol=5e-3, rtol=0)  # delays ring on a little
    assert (made - cut).abs().max() > 0.1


def test_a_loop_at_another_rate_is_a_loop() -> None:
    wave = torch.randn(2, 1600)
    made, thrice = resample(wave, RATE, 44_100, loop=True), resample(wave.repeat(1, 3), RATE, 44_100)
    torch.testing.assert_close(made, thrice[:, 4410:8820], atol=1e-4, rtol=0)


def test_seams_of_starter_loops_are_like_any_other_place() -> None:
    """`python -m benchmarks.loops` does it over 30 sounds."""
    starter = load("starter", device="cpu")
    given = {"image": read_image(INPUT / "farm.png"), "mask": read_mask(INPUT / "farm_mask_cow.png"), "steps": 3}
    looped = starter.generate(**given, seconds=2.0, loop=True, seed=4).waveform[0, 0]
    cut = starter.generate(**given, seconds=2.0, level=False, seed=4).waveform[0, 0]
    assert change_at(looped, RATE, 0, loop=True).smooth
    assert not change_at(cut, RATE, 0, loop=True).smooth
    assert check_sound(level(looped.repeat(3), RATE), RATE) == []


def test_a_step_is_a_seam_and_a_period_is_none() -> None:
    """Against what is known: whole periods of a tone, half of one, a step of level, of timbre, and a click."""
    time = torch.arange(RATE) / RATE
    noise = 0.1 * torch.randn(RATE)
    tone = torch.sin(2 * torch.pi * 440 * time)
    assert change_at(noise, RATE, 0, loop=True).ranks[0] < 1.0
    assert (
        change_at(tone[: RATE - 18] + 0.01 * noise[: RATE - 18], RATE, 0, loop=True).ranks[2] == 1.0
    )  # 18: half a period
    louder = noise.clone()
    louder[RATE // 2 :] *= 4
    found = change_at(louder, RATE, RATE // 2)
    assert found.level == pytest.approx(12, abs=1.5)
    assert not found.smooth
    duller = torch.cat([noise[: RATE // 2], tone[: RATE // 2] * noise.std() * 2**0.5])
    found = change_at(duller, RATE, RATE // 2)
    assert found.ranks[1] == 1.0
    clicked = noise.clone()
    clicked[6000] += 2
    assert change_at(clicked, RATE, 6000).ranks[2] == 1.0
    assert check_sound(level(noise.repeat(3), RATE), RATE) == []
    with pytest.raises(ValueError, match=r"at least 0\.4 s that is not silent is expected"):
        change_at(torch.zeros(RATE), RATE, 0, loop=True)
    with pytest.raises(ValueError, match="place is 100, but 800 to 15200 is expected"):
        change_at(noise, RATE, 100)
