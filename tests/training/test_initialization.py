"""The weights that a run starts with: where each part comes from, and whether parts fit."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import sounding
from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from sounding.naming.config import NamingConfig
from training.initialization import initialize
from training.recipe import RECIPES, WRITTEN, Recipe, read_recipe

from .helpers import recipe_of


def test_parts_come_from_where_start_says(tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = SoundingModel(dataclasses.replace(tiny_config, vae=dataclasses.replace(tiny_config.vae, scale=0.5)))
    other.save_pretrained(tmp_path / "other.safetensors", dtype=torch.float32)
    start = {"all": str(tiny_checkpoint), "vae": str(tmp_path / "other.safetensors"), "unet": "random"}
    recipe = recipe_of("grounded", tiny_config, tmp_path, start=start)
    model = initialize(dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, seed=6)))
    given = sounding.load(tiny_checkpoint, device="cpu")
    assert torch.equal(model.vae.state_dict()["encoder.conv_in.weight"], other.vae.encoder.conv_in.weight)
    assert model.config.vae.scale == 0.5
    assert torch.equal(model.vocoder.state_dict()["conv_pre.weight"], given.vocoder.state_dict()["conv_pre.weight"])
    assert not torch.equal(model.unet.conv_in.weight, given.unet.conv_in.weight)
    with pytest.raises(ValueError, match="start has 'voice'"):
        initialize(recipe_of("grounded", tiny_config, tmp_path, start={"voice": "random"}))


def written(recipe: Recipe, *keys: str) -> Recipe:
    """As if a file had spoken of these keys of the model alone."""
    model = copy.copy(recipe.model)
    object.__setattr__(model, WRITTEN, frozenset(keys))
    return dataclasses.replace(recipe, model=model)


def test_a_recipe_decides_how_parts_are_used_and_a_checkpoint_what_they_are(
    tiny_config: SoundingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each part's settings: of a recipe that says something else than the checkpoint, and of one that says nothing."""
    grounding = dataclasses.replace(tiny_config.grounding, mask_training=0.25, clamp_weights=True)
    diffusion = dataclasses.replace(tiny_config.diffusion, prediction="v_prediction")
    patches = dataclasses.replace(tiny_config.patches, geometry="pad")
    theirs = dataclasses.replace(tiny_config, grounding=grounding, diffusion=diffusion, patches=patches)
    torch.manual_seed(4)
    SoundingModel(theirs).save_pretrained(tmp_path / "file.safetensors", dtype=torch.float32)
    start = {"all": str(tmp_path / "file.safetensors")}
    silent = written(recipe_of("grounded", SoundingConfig(), tmp_path, start=start))
    assert dataclasses.replace(initialize(silent).config, name="tiny") == theirs
    assert "recipe" not in caplog.text

    changes: dict[str, dict[str, Any]] = {
        "grounding": {"mask_training": 0.0, "clamp_weights": False, "mlp_width": 32},
        "patches": {"geometry": "crop"},
        "diffusion": {"prediction": "epsilon"},
        "vae": {"scale": 0.7},
        "unet": {"channels": (32, 64)},
    }
    mine = dataclasses.replace(
        theirs,
        train_seconds=0.64,
        **{part: dataclasses.replace(getattr(theirs, part), **values) for part, values in changes.items()},
    )
    keys = [f"{part}.{key}" for part, values in changes.items() for key in values]
    with caplog.at_level(logging.WARNING):
        found = initialize(written(recipe_of("grounded", mine, tmp_path, start=start), "train_seconds", *keys)).config
    assert (found.grounding.mask_training, found.grounding.clamp_weights) == (0.0, False)
    assert (found.patches.geometry, found.diffusion.prediction, found.train_seconds) == ("crop", "epsilon", 0.64)
    assert (found.grounding.mlp_width, found.vae.scale) == (theirs.grounding.mlp_width, theirs.vae.scale)
    assert found.unet.channels == theirs.unet.channels
    for key in ("train_seconds", *keys):
        (line,) = [record.getMessage() for record in caplog.records if f"model.{key} is" in record.getMessage()]
        kept = key in ("grounding.mlp_width", "vae.scale", "unet.channels")
        assert ("the checkpoint's is taken" if kept else "the recipe's is taken") in line


def test_thresholds_of_sureness_come_with_the_grounding_that_they_were_measured_of(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """And steps and guidance with the U-Net; what a recipe sets goes before both."""
    measured = dataclasses.replace(
        tiny_config.generation, steps=3, backdrop_cosine=(0.4, 0.3), patch_cosine=(0.7, 0.5), name_cosine=(0.7, 0.8)
    )
    SoundingModel(dataclasses.replace(tiny_config, generation=measured)).save_pretrained(tmp_path / "other.safetensors")
    start = {"all": str(tiny_checkpoint), "grounding": str(tmp_path / "other.safetensors")}
    for given in (start, start | {"unet": "random"}):
        recipe = recipe_of("grounded", tiny_config, tmp_path, start=given)
        found = initialize(written(recipe, "generation.name_cosine")).config.generation
        assert found == dataclasses.replace(measured, steps=tiny_config.generation.steps, name_cosine=(0.84, 0.9))


def test_names_travel_and_give_way_to_a_trained_grounding(tiny_config: SoundingConfig, tmp_path: Path) -> None:
    theirs = dataclasses.replace(
        tiny_config,
        generation=dataclasses.replace(tiny_config.generation, masks="names"),
        naming=NamingConfig(names=("dog", "cat"), rows=(0, 1, 1)),
    )
    torch.manual_seed(3)
    given = SoundingModel(theirs)
    assert given.naming is not None
    torch.nn.init.normal_(given.naming.get_parameter("embeddings"))
    given.save_pretrained(tmp_path / "names.safetensors", dtype=torch.float32)
    start = {"all": str(tmp_path / "names.safetensors")}
    for task, masks in (("grounded", "grounding"), ("vae", "names")):
        model = initialize(written(recipe_of(task, SoundingConfig(), tmp_path, start=start)))
        assert (model.config.generation.masks, model.config.naming) == (masks, theirs.naming)
        assert model.naming is not None
        assert torch.equal(model.naming.get_parameter("embeddings"), given.naming.get_parameter("embeddings"))
    mine = written(recipe_of("grounded", theirs, tmp_path, start=start), "generation.masks")
    assert initialize(mine).config.generation.masks == "names"
    other = start | {"naming": "random"}
    assert initialize(written(recipe_of("grounded", SoundingConfig(), tmp_path, start=other))).naming is None


def test_statistics_of_conditions_begin_anew_where_a_recipe_adds_them(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, norm_matching=True)
    config = dataclasses.replace(tiny_config, grounding=grounding)
    start = {"all": str(tiny_checkpoint)}
    model = initialize(recipe_of("grounded", config, tmp_path, start=start))
    assert model.config.grounding.norm_matching
    assert int(model.grounding.weight_count) == 0
    with pytest.raises(ValueError, match="training starter calibrate"):
        initialize(recipe_of("vae", config, tmp_path, start=start))


@pytest.mark.parametrize(
    ("start", "change", "message"),
    [
        ({"grounding": "random"}, {"grounding": {"condition_width": 32}}, r"grounding\.condition_width 16.*32 in the"),
        ({"unet": "random", "patches": "random"}, {"patches": {"width": 8}}, r"grounding was.*patches\.width 16.*8 in"),
        ({"patches": "random"}, {"patches": {"grid": 4, "image_size": 128}}, r"patches\.grid 5.*4 in the recipe"),
        (
            {"query": "random"},
            {"query": {"width": 24}},
            r"query\.width 16.*24 in the recipe; set model\.query\.width=16",
        ),
        ({"vae": "random"}, {"vae": {"latent_channels": 4}}, r"unet was made.*vae\.latent_channels 8.*4 in the recipe"),
        ({"query": "random"}, {"query": {"tower": "clap_audio"}}, r"query is 'text'.*'clap_audio'.*takes sounds"),
        ({}, {"audio": {"mel_bands": 32}}, r"model\.audio\.mel_bands is 64 there and 32 here"),
        ({"unet": "random"}, {"unet": {"channels": (16, 30)}}, r"cannot be built|unet\.channels"),
        ({"unet": "random"}, {"unet": {"head_width": 0}}, r"cannot be built|head_width"),
    ],
)
def test_parts_that_do_not_fit_are_named_in_one_sentence(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path, start: Any, change: Any, message: str
) -> None:
    def build() -> None:
        parts = {part: dataclasses.replace(getattr(tiny_config, part), **values) for part, values in change.items()}
        config = dataclasses.replace(tiny_config, **parts)
        initialize(recipe_of("grounded", config, tmp_path, start={"all": str(tiny_checkpoint)} | start))

    with pytest.raises(ValueError, match=message) as raised:
        build()
    assert "\n" not in str(raised.value)


def test_parts_of_two_checkpoints_that_do_not_fit_name_both(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, condition_width=8)
    SoundingModel(dataclasses.replace(tiny_config, grounding=grounding)).save_pretrained(tmp_path / "b.safetensors")
    start = {"all": str(tiny_checkpoint), "grounding": str(tmp_path / "b.safetensors")}
    with pytest.raises(ValueError, match=r"tiny\.safetensors.*condition_width 16.*8 in .*b\.safetensors, where start"):
        initialize(recipe_of("grounded", tiny_config, tmp_path, start=start))


def test_the_papers_recipe_does_not_fit_the_starter_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"start\.all is starter.*grounding\.condition_width 256.*512 in the recipe"):
        initialize(read_recipe(RECIPES / "paper.yaml", overrides=["start.all=starter"]))
