"""VAE and vocoder: what they learn from crops of sounds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sounding
from sounding.config import SoundingConfig, VocoderConfig
from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.data.settings import DataSettings
from training.data.sounds import ObjectClips
from training.initialization import initialize
from training.registry import TASKS
from training.run import fresh_parts, run
from training.tasks.vae import VaeSettings
from training.tasks.vocoder import VocoderSettings, spectral_energy_distance, stft_distance

from .helpers import read_log, recipe_of


def test_vae_learns_and_its_latents_scale_is_measured(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    data = DataSettings(stamps=str(stamps_folder))
    recipe = recipe_of("vae", tiny_config, tmp_path, data=data, settings=VaeSettings(frames=32))
    model = sounding.load(run(recipe), device="cpu")
    logged = read_log(recipe.folder)
    assert logged[-1]["l1"] < 0.7 * logged[0]["l1"]
    clips = ObjectClips(ObjectSet(stamps_folder))
    sounds = torch.stack([clips.crop(i % 3, 5120, np.random.default_rng(i)) for i in range(24)])
    deviation = float(torch.cat([model.encode(part) for part in sounds.split(8)]).std())
    assert deviation == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("critic", [0.0, 0.03])
def test_vocoder_learns(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, stamps_folder: Path, tmp_path: Path, critic: float
) -> None:
    settings = VocoderSettings(frames=24, stft=1.0 if critic else 0.0, resolutions=(256,), critic=critic)
    recipe = recipe_of(
        "vocoder",
        tiny_config,
        tmp_path,
        data=DataSettings(stamps=str(stamps_folder)),
        settings=settings,
        start={"all": str(tiny_checkpoint)},  # from scratch it stays too quiet for so few steps
    )
    if critic:
        recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, steps=20))
    before = initialize(recipe).vocoder.state_dict()
    model = sounding.load(run(recipe), device="cpu")
    logged = read_log(recipe.folder)
    if critic:
        assert {"critic", "adversarial", "matching"} <= logged[0].keys()
    else:
        assert logged[-1]["mel"] < 0.7 * logged[0]["mel"]
    assert not torch.equal(model.vocoder.state_dict()["conv_pre.weight"], before["conv_pre.weight"])


@pytest.mark.parametrize("energy", [0.0, 1.0])
def test_vocos_learns_and_goes_on_from_a_checkpoint(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path, energy: float
) -> None:
    vocos = VocoderConfig(network="vocos", width=32, hidden=64, blocks=2, normalize=True, noise=energy > 0)
    config = dataclasses.replace(tiny_config, vocoder=vocos)
    data, settings = (
        DataSettings(stamps=str(stamps_folder)),
        VocoderSettings(frames=24, energy=energy, resolutions=(256,)),
    )
    first = recipe_of("vocoder", config, tmp_path, data=data, settings=settings)
    model = sounding.load(run(first), device="cpu")
    logged = read_log(first.folder)
    assert logged[-1]["mel"] < 0.7 * logged[0]["mel"]
    assert float(model.vocoder.mean[0]) == pytest.approx(-4.6), "it knows what it standardises by"
    again = recipe_of("vocoder", config, tmp_path / "again", data=data, start={"all": str(first.result)})
    assert torch.equal(initialize(again).vocoder.head.weight, model.vocoder.head.weight)


def test_a_vocoders_export_sounds_as_it_did_in_training(
    tiny_config: SoundingConfig, tiny_model: SoundingModel, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("vocoder", tiny_config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    model = initialize(recipe)
    objective = TASKS["vocoder"].build(model, recipe.settings, recipe.data, fresh_parts(recipe)).objective
    mel = torch.randn(1, 24, 64)
    objective.install(model)
    torch.testing.assert_close(model.vocoder(mel), objective.generator(mel), rtol=1e-5, atol=1e-6)


def test_stft_distance_is_zero_only_for_equal_sounds() -> None:
    sound = torch.randn(2, 4000)
    assert float(stft_distance(sound, sound, (128, 512))) == 0
    assert float(stft_distance(0.5 * sound, sound, (128, 512))) == pytest.approx(0.5 + math.log(2), rel=1e-3)
    hiss = 0.05 * sound  # beside silence its ratio is 10: noise at an RMS of 0.05 over the floor of 0.005
    ratio = stft_distance(hiss, torch.zeros_like(sound), (512,)) - (hiss_level(hiss) - math.log(1e-5))
    assert float(ratio) == pytest.approx(10, rel=0.1)


def hiss_level(sound: Tensor) -> Tensor:
    """Mean log-magnitude."""
    window = torch.hann_window(512)
    return torch.stft(sound, 512, 128, window=window, return_complex=True).abs().clamp(min=1e-5).log().mean()


def test_the_energy_distance_is_least_for_sounds_like_the_real_ones() -> None:
    """Of noise: other noise is nearer than louder or quieter noise, or what is always the same, or silence."""
    torch.manual_seed(0)
    real, one, other = (0.1 * torch.randn(16, 8000) for _ in range(3))
    likely = spectral_energy_distance(real, one, other, (128, 512))
    tone = 0.14 * torch.sin(torch.arange(8000) * 0.7).expand(16, -1)
    for made, again in ((2 * one, 2 * other), (one / 2, other / 2), (one, one), (0 * one, 0 * one), (tone, tone)):
        assert spectral_energy_distance(real, made, again, (128, 512)) > 1.1 * likely
    distance = spectral_energy_distance(real, real, real, (128, 512))
    assert float(distance) == pytest.approx(0, abs=0.01)


def test_an_energy_distance_asks_for_noise(tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path) -> None:
    data = DataSettings(stamps=str(stamps_folder))
    recipe = recipe_of("vocoder", tiny_config, tmp_path, data=data, settings=VocoderSettings(energy=1.0))
    with pytest.raises(ValueError, match=r"model\.vocoder\.noise is false"):
        TASKS["vocoder"].build(initialize(recipe), recipe.settings, recipe.data, fresh_parts(recipe))
    short = VocoderSettings(stft=0.0, resolutions=(65_536,))  # the distance is logged whatever its weight
    with pytest.raises(ValueError, match=r"vocoder\.frames 48 are 7680 samples"):
        TASKS["vocoder"].build(initialize(recipe), short, recipe.data, fresh_parts(recipe))


def test_crops_are_where_the_sound_is(stamps_data: ObjectSet) -> None:
    clips = ObjectClips(stamps_data)
    crops = torch.stack([clips.crop(i % 3, 4000, np.random.default_rng(i)) for i in range(16)])
    assert crops.shape == (16, 4000)
    assert (crops.abs().amax(dim=1) > 1e-3).all()
