"""The starter's stages, one after the other."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import sounding
from sounding.checkpoint import read_header
from sounding.config import SoundingConfig
from training.recipe import RECIPES
from training.starter import run as starter

from .helpers import recipe_of


def test_the_starters_stages_follow_each_other_to_one_checkpoint(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipes' own stages, for three steps each of a tiny model."""
    seen = dataclasses.replace(tiny_config.patches, model="tf_efficientnet_lite0")  # which one stage asks for
    grounding = dataclasses.replace(tiny_config.grounding, norm_matching=True)
    config = dataclasses.replace(tiny_config, patches=seen, grounding=grounding)
    small = yaml.safe_load(recipe_of("vae", config, tmp_path).to_yaml())["model"]
    stamps = tmp_path / "stamps"
    shutil.copytree(stamps_folder, stamps)
    manifest = (stamps / "manifest.json").read_text(encoding="utf-8")
    (stamps / "manifest.json").write_text(manifest.replace('"a disc"', '"a cow"'), encoding="utf-8")
    for file in (RECIPES / "starter").glob("*.yaml"):
        recipe = yaml.safe_load(file.read_text())
        if file.stem == "base":
            recipe["model"] = small
        if "loop" in recipe:
            recipe["loop"] |= {"steps": 3, "batch": 2, "log_every": 1, "warmup": 1}
        if file.stem == "encoders":
            recipe["starter_encoders"] = {"imagenet": False, "frozen_blocks": 0}
        if file.stem == "class_feature_replay":
            recipe["class_feature_replay"] = {"scenes": 2, "inverted": 4}
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / file.name).write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(starter, "SCENES", 4)
    path = starter.train_starter(stamps, tmp_path / "out", tmp_path / "recipes", workers=0)
    model = sounding.load(path, device="cpu")
    grounded = sounding.load(tmp_path / "out" / "grounded" / "grounded.safetensors", device="cpu")
    assert model.config.vae.scale == grounded.config.vae.scale != tiny_config.vae.scale
    finetuned = sounding.load(tmp_path / "out" / "unet_finetuning" / "unet_finetuning.safetensors", device="cpu")
    torch.testing.assert_close(model.unet.conv_in.weight, finetuned.unet.conv_in.weight, rtol=1e-3, atol=1e-3)
    assert not torch.equal(finetuned.unet.conv_in.weight, grounded.unet.conv_in.weight)
    before, after = grounded.patches.tower.head.proj.weight, model.patches.tower.head.proj.weight
    assert not torch.allclose(before, after, rtol=1e-3, atol=1e-3)  # by class-feature replay
    assert model.config.grounding.backdrops
    assert not finetuned.config.grounding.backdrops
    assert "GPL" in read_header(path).metadata["modelspec.license"]
    assert read_header(path).dtypes["unet.conv_in.weight"] == "F16"
