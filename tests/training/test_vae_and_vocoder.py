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
from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.data.settings import DataSettings
from training.data.sounds import ObjectClips
from training.initialization import initialize
from training.registry import TASKS
from training.run import fresh_parts, run
from training.starter.vocoder import StarterVocoderSettings
from training.tasks.vae import VaeSettings
from training.tasks.vocoder import stft_distance

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
    settings = StarterVocoderSettings(
        frames=24, stft=1.0 if critic else 0.0, resolutions=(256,), reconstructed=0.5 if critic else 0.0, critic=critic
    )
    recipe = recipe_of(
        "starter_vocoder",
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


def test_crops_are_where_the_sound_is(stamps_data: ObjectSet) -> None:
    clips = ObjectClips(stamps_data)
    crops = torch.stack([clips.crop(i % 3, 4000, np.random.default_rng(i)) for i in range(16)])
    assert crops.shape == (16, 4000)
    assert (crops.abs().amax(dim=1) > 1e-3).all()
