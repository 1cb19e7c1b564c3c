"""The starter's stages, from a set of objects to one checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import sounding
from sounding.checkpoint import read_header
from sounding.config import SoundingConfig
from training.data.object_set import read_set
from training.data.shards import Shards
from training.recipe import RECIPES
from training.starter.run import NEEDS, Amounts, in_order, run_stage, train_starter

from .conftest import draw_stamp
from .helpers import recipe_of

WIDTHS = {"tower": "timm", "model": "tf_efficientnet_lite0"}


@pytest.fixture
def objects(stamps_folder: Path, tmp_path: Path) -> Path:
    """The stamps, of which one is a cow, one has no image but a class, and something silent."""
    folder = tmp_path / "objects"
    shutil.copytree(stamps_folder, folder)
    rows = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rows[1] |= {"caption": "a cow", "classes": [345], "recordings": [rows[1]["audio"]]}
    rows[2] |= {"caption": "a piano", "classes": [579, 881], "image": "", "captions": ["a pianist"]}
    draw_stamp("bar").save(folder / "silent.png")
    Image.new("RGB", (64, 64), (10, 90, 10)).save(folder / "meadow.jpg")
    manifest = {"objects": rows, "silent": ["silent.png"], "backgrounds": ["meadow.jpg"]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def small_recipes(config: SoundingConfig, folder: Path) -> Path:
    """The starter's own recipes, for three steps each of a tiny model."""
    grounding = dataclasses.replace(config.grounding, norm_matching=True)
    seen = dataclasses.replace(config.patches, **WIDTHS)
    whole = dataclasses.replace(config, grounding=grounding, patches=seen)
    small = yaml.safe_load(recipe_of("vae", whole, folder).to_yaml())["model"]
    del small["name"], small["vocabulary"], small["generation"]  # as the recipes have none of what is found out
    (folder / "recipes").mkdir()
    for file in (RECIPES / "starter").glob("*.yaml"):
        recipe = yaml.safe_load(file.read_text())
        if file.stem == "base":
            recipe["model"] = small
        if "loop" in recipe:
            recipe["loop"] |= {"steps": 3, "batch": 2, "log_every": 1, "warmup": 1, "precision": "fp32"}
        if file.stem == "cuts":
            recipe["starter_grounded"]["cut"] = whole.unet.stride
        if file.stem == "vocoder":
            recipe["vocoder"] = {"frames": 24, "resolutions": [256]}
        (folder / "recipes" / file.name).write_text(yaml.safe_dump(recipe))
    return folder / "recipes"


def test_the_starters_stages_follow_each_other_to_one_checkpoint(
    tiny_config: SoundingConfig, objects: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipes = small_recipes(tiny_config, tmp_path)
    path = train_starter(objects, out, recipes, amounts=Amounts(scenes=12, captions=1, frames=2, trajectories=1))
    model = sounding.load(path, device="cpu")
    grounded = sounding.load(out / "grounded" / "grounded.safetensors", device="cpu")
    encoders = sounding.load(out / "encoders" / "encoders.safetensors", device="cpu")
    assert model.config.vocabulary == ("a bar", "a cow", "a piano")
    assert model.config.vae.scale == grounded.config.vae.scale != tiny_config.vae.scale
    close = {"rtol": 1e-3, "atol": 1e-3}  # of half precision
    torch.testing.assert_close(model.patches.tower.head.proj.weight, encoders.patches.tower.head.proj.weight, **close)
    assert model.config.grounding.backdrops
    own, measured = model.config.generation, grounded.config.generation
    assert own == measured
    assert own.backdrop_cosine != tiny_config.generation.backdrop_cosine
    assert model.config.segmenter is not None
    assert "GPL-3" in read_header(path).metadata["modelspec.license"]
    assert read_header(path).dtypes["unet.conv_in.weight"] == "F16"
    before = path.read_bytes()
    for stage in ("scenes", "vae", "features", "starter"):  # what is there is not made again
        run_stage(stage, objects, out, recipes, Amounts(12, 1, 2, 1))
    assert path.read_bytes() == before

    rows = Shards(out / "features", ("id", "patches", "sounding", "labels"))
    scenes = Shards(out / "scenes", ("id", "images"))
    classes = {entry.label: entry.classes for entry in read_set(objects).visible}
    drawn = 0
    for number in range(len(rows)):
        row = rows[number]
        label = row["labels"][row["sounding"][0]]
        single = len(row["sounding"]) == 1 and bool(classes[label])
        assert len(row["patches"]) == (1 if not single else 2 if label == 2 else 3)
        seen = grounded.patches(scenes[number]["images"] / 255.0).half()
        if label != 2 or not single:
            torch.testing.assert_close(row["patches"][:1], seen, rtol=0, atol=2e-3)
        if single:
            drawn += 1
            assert not torch.allclose(row["patches"][-1], row["patches"][-2], atol=1e-2)
    assert drawn


def test_stages_begin_when_their_needs_are_met_and_none_after_a_failure() -> None:
    begun: list[str] = []
    ended: list[str] = []
    both = threading.Barrier(2, timeout=30)

    def start(stage: str) -> None:
        assert set(NEEDS[stage]) <= set(ended)
        begun.append(stage)
        if stage in ("vae", "encoders"):
            both.wait()  # they run beside each other
        ended.append(stage)

    in_order(NEEDS, start, 2)
    assert sorted(ended) == sorted(NEEDS)
    assert ended[-1] == "starter"

    def fail(stage: str) -> None:
        begun.append(stage)
        raise ValueError(f"{stage} is damaged")

    begun.clear()
    with pytest.raises(ValueError, match="is damaged"):
        in_order(NEEDS, fail, 1)
    assert begun == ["vae"]


def test_a_stage_that_fails_says_where_its_log_is(tiny_config: SoundingConfig, objects: Path, tmp_path: Path) -> None:
    recipes = small_recipes(tiny_config, tmp_path)
    (recipes / "vae.yaml").write_text("task: vae\nname: vae\nloop: {steps: 0}\n")
    with pytest.raises(RuntimeError, match=r"stage vae ended with 1 .*vae\.log has its log"):
        train_starter(objects, tmp_path / "out", recipes, at_once=1)
