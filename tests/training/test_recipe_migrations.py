"""Recipes that earlier versions wrote read as what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from training.finetune.plan import FinetuneRecipe
from training.recipe import RECIPES, Recipe, read_recipe
from training.starter.encoders import StarterEncodersSettings
from training.starter.grounded import StarterGroundedSettings
from training.starter.segmenter import StarterSegmenterSettings
from training.tasks.grounded import GroundedSettings
from training.tasks.vocoder import VocoderSettings

# As version 1 wrote out all defaults beside a run of the paper's recipe.
GROUNDED = {"drop": 0.1, "snr_gamma": 0.0, "snr_floor": 0.0, "snr_limit": 0.0, "even_times": False, "mix": 0.0}
GROUNDED |= {"attention_start": 0.0, "keep_attention": False, "alone": 0.0, "backdrop": 0.0, "frozen": False}
GROUNDED |= {"keep_grounding": False}
ENCODERS = {"imagenet": False, "frozen_blocks": 3, "tower_rate": 1.0, "kept_weight": 0.0, "known_weight": 0.0}
ENCODERS |= {"recalled_weight": 0.0, "temperature": 0.05, "region_weight": 1.0, "scene_weight": 0.25}
SEGMENTER = {"cutouts": "", "cache": "", "scenes": 4000, "rounds": 2, "boxes": 0.15, "again": 0.4, "rough_weight": 0.3}
VOCODER = {"frames": 48, "mel": 1.0, "stft": 1.0, "resolutions": [256, 512, 1024, 2048], "restored": 0.0}
VOCODER |= {"critic": 0.0, "adversarial": 1.0, "matching": 2.0, "mel_mean": -4.6, "mel_std": 2.2}
BLOCKS: dict[str, Any] = {"grounded": GROUNDED, "encoders": ENCODERS, "segmenter": SEGMENTER}
BLOCKS["vocoder"] = VOCODER


def old(folder: Path, task: str, **changes: Any) -> Recipe:
    """A recipe of `task` with every block written out, `changes` in that of its task."""
    blocks = BLOCKS | {task: BLOCKS[task] | changes}
    text = yaml.safe_dump({"task": task, "name": "old", "loop": {"steps": 1, "batch": 1, "lr": 0.1}, **blocks})
    (folder / "old.yaml").write_text(text)
    return read_recipe(folder / "old.yaml")


@pytest.mark.parametrize(
    ("task", "changes", "name", "settings"),
    [
        ("grounded", {"frozen": True}, "grounded", GroundedSettings(frozen=True)),
        ("grounded", {"mix": 0.4, "drop": 0.2}, "starter_grounded", StarterGroundedSettings(mix=0.4, drop=0.2)),
        ("grounded", {"even_times": True}, "starter_grounded", StarterGroundedSettings(even_times=True)),
        ("vocoder", {"frames": 24}, "vocoder", VocoderSettings(frames=24)),
        ("encoders", {"recalled_weight": 0.5}, "starter_encoders", StarterEncodersSettings(replay_weight=0.5)),
        ("segmenter", {"rounds": 3}, "starter_segmenter", StarterSegmenterSettings(rounds=3)),
    ],
)
def test_old_recipes_read_as_what_they_were(
    task: str, changes: dict[str, Any], name: str, settings: object, tmp_path: Path
) -> None:
    recipe = old(tmp_path, task, **changes)
    assert (recipe.task, recipe.settings) == (name, settings)


@pytest.mark.parametrize(
    ("file", "override", "key", "value"),
    [
        ("starter/grounded.yaml", "grounded.mix=0.25", "mix", 0.25),
        ("paper.yaml", "grounded.mix=0.25", "mix", 0.25),
        ("starter/encoders.yaml", "encoders.recalled_weight=0.3", "replay_weight", 0.3),
        ("starter/segmenter.yaml", "segmenter.rounds=3", "rounds", 3),
    ],
)
def test_overrides_by_former_names_mean_the_same(file: str, override: str, key: str, value: float) -> None:
    plain, changed = read_recipe(RECIPES / file), read_recipe(RECIPES / file, overrides=[override])
    others = {name: kept for name, kept in vars(plain.settings).items() if name != key}
    assert vars(changed.settings) == {**vars(type(changed.settings)()), **others, key: value}


def test_new_names_override_recipes_of_former_names(tmp_path: Path) -> None:
    old(tmp_path, "encoders", recalled_weight=0.5)
    recipe = read_recipe(tmp_path / "old.yaml", overrides=["starter_encoders.temperature=0.1"])
    assert recipe.settings == StarterEncodersSettings(replay_weight=0.5, temperature=0.1)


def test_unknown_keys_are_still_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kept_weight"):  # what it asks for is no longer there
        old(tmp_path, "encoders", kept_weight=0.5)
    with pytest.raises(ValueError, match="restored"):
        old(tmp_path, "vocoder", restored=0.5)
    with pytest.raises(ValueError, match="mixes"):
        old(tmp_path, "grounded", mixes=0.4)


def test_old_finetuning_recipes_read_as_what_they_were(tmp_path: Path) -> None:
    now = yaml.safe_load((RECIPES / "finetune.yaml").read_text(encoding="utf-8"))
    names = {"text_encoder": "names", "grounding": "conditions", "unet": "sounds", "diffusion": "grounded"}
    names |= {"distillation_weight": "kept"}
    before = {names.get(key, key): value for key, value in now.items()} | {"known_heard": 5}
    before["grounded"] = GROUNDED | now["diffusion"]  # as earlier versions wrote it out
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(before))
    expected = read_recipe(RECIPES / "finetune.yaml", FinetuneRecipe, ["known_evaluated=5"])
    assert read_recipe(tmp_path / "old.yaml", FinetuneRecipe) == expected
    before["grounded"] |= {"mix": 0.4}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(before))
    with pytest.raises(ValueError, match=r"diffusion\.mix"):
        read_recipe(tmp_path / "old.yaml", FinetuneRecipe)
