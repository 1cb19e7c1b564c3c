"""Recipes of earlier versions, which lie beside runs that go on, are read as they were meant."""

from __future__ import annotations

from pathlib import Path

from sounding.config import GenerationConfig
from training.recipe import read_recipe


def test_old_recipes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: grounded\nname: old\nloop: {steps: 1, batch: 1, lr: 0.001}\n"
        "model: {grounding: {match_length: true}, generation: {alike: 0.68, apart: 0.5}}\n"
    )
    recipe = read_recipe(path, overrides=["model.generation.familiar=0.95"])
    assert recipe.model.grounding.norm_matching
    assert recipe.model.generation == GenerationConfig(patch_cosine=(0.68, 0.5), name_cosine=(0.84, 0.95))
    assert {"grounding.norm_matching", "generation.patch_cosine", "generation.name_cosine"} == recipe.explicit
