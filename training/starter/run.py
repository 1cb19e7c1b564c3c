"""The starter, all stages in order: VAE, encoders, grounding and U-Net, class-feature replay, U-Net fine-tuning,
condition calibration, vocoder, vocoder fine-tuning, segmenter.

A stage whose checkpoint is there is not run again, and one that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sounding.checkpoint import read_header
from sounding.model import SoundingModel

from ..data.features import FeatureSource
from ..data.scene_source import SceneSource
from ..data.shard_writer import make_shards
from ..provenance import check_settings
from ..recipe import RECIPES, Recipe, read_recipe
from ..run import run
from .calibrate import calibrate
from .cutouts import read_cutouts
from .transplant import put_segmenter

log = logging.getLogger("training")
STAGES = (
    "vae",
    "encoders",
    "grounded",
    "class_feature_replay",
    "unet_finetuning",
    "condition_calibration",
    "vocoder",
    "vocoder_finetuning",
)
SCENES = 9000


def stage_recipes(data: Path, out: Path, folder: Path = RECIPES / "starter") -> list[Recipe]:
    """The stages' recipes, each beginning with the one before."""
    recipes: list[Recipe] = []
    for stage in STAGES:
        moved = [f"out={out}", f"data.stamps={data}"]
        if stage in ("grounded", "unet_finetuning"):
            moved = [f"out={out}", f"data.shards={out / f'{stage}_features'}"]
        if stage in ("class_feature_replay", "condition_calibration"):
            moved.append(f"class_feature_replay.cache={out / 'replay_scenes'}")
        if recipes:
            moved.append(f"start.all={recipes[-1].result}")
        recipes.append(read_recipe(folder / f"{stage}.yaml", overrides=moved))
    return recipes


def segmenter_recipe(data: Path, cutouts: Path, out: Path, folder: Path = RECIPES / "starter") -> Recipe:
    """The segmenter's recipe. It needs the encoders' stage alone, and no later one needs it."""
    moved = [f"out={out}", f"data.stamps={data}", f"start.all={out / 'encoders' / 'encoders.safetensors'}"]
    moved += [f"starter_segmenter.cutouts={cutouts}", f"starter_segmenter.cache={out / 'click_scenes'}"]
    return read_recipe(folder / "segmenter.yaml", overrides=moved)


def train_starter(
    data: Path, out: Path, folder: Path = RECIPES / "starter", *, cutouts: Path | None = None, workers: int = 2
) -> Path:
    """Train all stages and return the checkpoint with all of them.

    Args:
        data: of `python -m training starter stamps`.
        out: gets a folder per stage.
        folder: of the recipes.
        cutouts: of `python -m training starter cutouts`; without it there is no segmenter.
        workers: processes that draw the scenes.
    """
    if cutouts is not None:
        read_cutouts(cutouts, held_out=False)  # whether it is there should be known now, not after hours
    recipes = stage_recipes(data, out, folder)
    for recipe in recipes:
        if recipe.result.is_file():
            check_settings(recipe)
            log.info("%s is there", recipe.result)
        else:
            if recipe.task == "starter_grounded":
                seconds, size = recipe.model.train_seconds, recipe.model.patches.image_size
                # The model card's 9000 and 12000.
                count = SCENES * 4 // 3 if recipe.name == "unet_finetuning" else SCENES
                scenes = SceneSource(data, scenes=count, split="train", seconds=seconds, size=size, captions=2)
                drawn = out / f"{recipe.name}_scenes"
                make_shards(scenes, drawn, workers=workers)
                model = SoundingModel.from_pretrained(recipe.start["all"])
                make_shards(FeatureSource(drawn, model), Path(str(recipe.data.shards)))
            run(recipe)
        if recipe.name == "condition_calibration" and not read_header(recipe.result).config.grounding.backdrops:
            features = next(one for one in recipes if one.name == "unet_finetuning").data.shards
            calibrate(recipe.result, Path(str(features)), recipe.result)
    if cutouts is not None:
        recipe = segmenter_recipe(data, cutouts, out, folder)
        put_segmenter(recipe.result if recipe.result.is_file() else run(recipe), recipes[-1].result)
    return recipes[-1].result
