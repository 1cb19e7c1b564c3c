"""The starter, all stages in order: VAE, encoders, features of scenes, grounding and U-Net, vocoder twice.

A stage whose checkpoint is there is not run again, and one that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sounding.checkpoint import load_model

from .data.features import FeatureSource
from .data.making import make_shards
from .data.scene_shards import StampSource
from .recipe import RECIPES, Recipe, read_recipe
from .run import run

log = logging.getLogger("training")
STAGES = ("vae", "encoders", "grounded", "vocoder", "restored")
SCENES = 5000


def stage_recipes(data: Path, out: Path, folder: Path = RECIPES / "starter") -> list[Recipe]:
    """The stages' recipes, each beginning with the one before."""
    recipes: list[Recipe] = []
    for stage in STAGES:
        moved = [f"out={out}", f"data.stamps={data}"]
        if stage == "grounded":
            moved = [f"out={out}", f"data.shards={out / 'features'}"]
        if recipes:
            moved.append(f"start.all={recipes[-1].result}")
        recipes.append(read_recipe(folder / f"{stage}.yaml", overrides=moved))
    return recipes


def train_starter(data: Path, out: Path, folder: Path = RECIPES / "starter", *, workers: int = 2) -> Path:
    """Train all stages and return the last one's checkpoint; `workers` processes draw the scenes."""
    recipes = stage_recipes(data, out, folder)
    for recipe in recipes:
        if recipe.result.is_file():
            log.info("%s is there", recipe.result)
            continue
        if recipe.task == "grounded":
            seconds, size = recipe.model.train_seconds, recipe.model.patches.image_size
            scenes = StampSource(data, scenes=SCENES, split="train", seconds=seconds, size=size, captions=2)
            make_shards(scenes, out / "scenes", workers=workers)
            make_shards(FeatureSource(out / "scenes", load_model(recipe.start["all"])), out / "features")
        run(recipe)
    return recipes[-1].result
