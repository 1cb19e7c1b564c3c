"""Recipes: what extends what, overrides, errors, and that all of ours say what they should."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sounding.model import SoundingModel
from sounding.utils.fields import Range
from training.__main__ import app
from training.dry_run import settings_in_use
from training.engine.settings import LoopConfig
from training.finetune.plan import FinetuneRecipe
from training.recipe import RECIPES, Recipe, read_recipe
from training.recipe_files import parse_overrides, read_yaml
from training.starter.evaluate.classifier import ClassifierRecipe
from training.starter.run import NEEDS, stage_recipe

NOT_WHOLE = ("base", "classifier", "finetune", "plan", "refine", "separator")
WHOLE = sorted(path for path in RECIPES.rglob("*.yaml") if path.stem not in NOT_WHOLE)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_recipe_reads_and_reads_back(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.loop.length(1000) > 0
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert read_recipe(tmp_path / "again.yaml") == recipe


def test_the_papers_settings() -> None:
    """Section 4.1."""
    loop = read_recipe(RECIPES / "paper.yaml").loop
    assert (loop.batch, loop.lr, loop.epochs, loop.betas) == (64, 1e-4, 300, (0.95, 0.999))
    assert (loop.eps, loop.weight_decay) == (1e-6, 1e-3)


def test_a_dry_run_of_the_papers_recipe_shows_the_papers_settings_alone() -> None:
    shown = yaml.safe_load(settings_in_use(read_recipe(RECIPES / "paper.yaml")))
    assert shown["data"] == {"shards": "shards/features", "workers": 8}
    assert shown["grounded"] == {"drop": 0.1}
    assert shown["model"]["generation"] == {"steps": 200, "cfg": 2.0, "sampler": "ddim"}
    grounding = {"heads", "scoring", "query", "positions", "key_width", "mlp_width", "activation", "condition_width"}
    assert shown["model"]["grounding"].keys() == grounding
    starter = yaml.safe_load(settings_in_use(read_recipe(RECIPES / "starter" / "grounded.yaml")))
    assert starter["model"]["grounding"].keys() > grounding
    assert {"clamp_weights", "norm_matching"} <= starter["model"]["grounding"].keys()
    assert "backdrop_cosine" in starter["model"]["generation"]


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        ("frozen", "grounded.frozen", True),
        ("multi_head", "model.grounding.heads", 8),
        ("additive", "model.grounding.scoring", "additive"),
        ("audio_query", "model.grounding.query", "audio"),
        ("mask_training", "model.grounding.mask_training", 1.0),
        ("no_positions", "model.grounding.positions", False),
    ],
)
def test_an_ablation_is_its_difference_alone(name: str, where: str, value: object) -> None:
    path = RECIPES / "ablations" / f"{name}.yaml"
    changed, paper = (read_recipe(p).values() for p in (path, RECIPES / "paper.yaml"))
    found = changed
    for key in where.split(".")[:-1]:
        found = found[key]
    assert found[where.rsplit(".", maxsplit=1)[-1]] == value
    for recipe in (changed, paper):
        del recipe["name"]
        inner = recipe
        for key in where.split(".")[:-1]:
            inner = inner[key]
        del inner[where.rsplit(".", maxsplit=1)[-1]]
    if name != "audio_query":  # its queries are features of their own
        assert changed == paper


def test_the_starter_is_small_enough_and_its_stages_follow_each_other(tmp_path: Path) -> None:
    trained = [stage for stage in NEEDS if (RECIPES / "starter" / f"{stage}.yaml").is_file()]
    stages = {stage: stage_recipe(stage, Path("data/starter/train"), tmp_path) for stage in trained}
    assert len(stages) == 8
    results = {str(recipe.result) for recipe in stages.values()}
    for recipe in stages.values():
        assert set(recipe.start.values()) <= results
        assert all(Path(folder).parent == tmp_path for folder in [recipe.data.shards] if folder)
    last = stages["starter"]
    student = {"few_steps": last.settings.evaluations, "few_steps_rank": last.settings.rank}
    unet = dataclasses.replace(last.model.unet, **student)
    whole = dataclasses.replace(last.model, unet=unet, segmenter=stages["segmenter"].model.segmenter)
    with torch.device("meta"):
        weights = SoundingModel(whole).state_dict()
    assert any(name.startswith("unet.few_steps.") for name in weights)
    assert last.dtype == "fp16"
    header = 160_000  # bytes: the names and places of some 1,240 tensors, and the configuration
    assert 2 * sum(value.numel() for value in weights.values()) + header < 40e6
    assert read_recipe(RECIPES / "starter" / "classifier.yaml", ClassifierRecipe).loop.steps > 0


def test_mappings_merge_and_the_rest_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {x: 1, y: [1, 2]}\nb: 2\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\na: {y: [3]}\nc: 1e-4\n")
    assert read_yaml(tmp_path / "top.yaml") == {"a": {"x": 1, "y": [3]}, "b": 2, "c": 1e-4}


def test_overrides_are_typed_and_nested(tmp_path: Path) -> None:
    assert parse_overrides(["loop.lr=2e-4", "loop.batch=8", "name=mine", "start={all: starter}"]) == {
        "loop": {"lr": 2e-4, "batch": 8},
        "name": "mine",
        "start": {"all": "starter"},
    }
    recipe = read_recipe(RECIPES / "paper.yaml", overrides=["loop.lr=2e-4", "model.grounding.heads=4"])
    assert (recipe.loop.lr, recipe.loop.batch, recipe.model.grounding.heads) == (2e-4, 64, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loop: {steps: 1, batch: 1, lr: 0.1, stepz: 3}", r"vae\.yaml: Unknown key 'loop\.stepz'"),
        ("loop: {steps: 1, batch: many, lr: 0.1}", r"loop\.batch is 'many'"),
        ("loop: {steps: 1, batch: 1}", "loop"),
        ("task: dance", "task is 'dance', but one of grounded"),
        ("extends: vae.yaml", "extends itself"),
        ("extends: gone.yaml", r"gone\.yaml cannot be read"),
        ("- a\n- b", "holds a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "vae.yaml"
    start = "" if text.startswith(("extends", "-", "a:", "task")) else "task: vae\nname: x\n"
    file.write_text(start + text + ("\nname: x\nloop: {batch: 1, lr: 1}" if text.startswith("task") else "") + "\n")
    with pytest.raises(ValueError, match=message):
        read_recipe(file, Recipe)


HOSTILE = {
    "alias bomb": "a: &a [x, x, x]\n"
    + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghij")),
    "few aliases that repeat a lot": f"a: &a [{'x, ' * 3000}]\nb: [*a, *a, *a, *a]",
    "an alias in what it stands for": "a: &a {b: *a}",
    "merge key": "a: &a {x: 1}\nb: {<<: *a}",
    "many merge keys": "a: &a {x: 1}\nb: {<<: [*a, *a, *a]}",
    "deep list": "a: " + "[" * 30_000,
    "deep mapping": "{a: " * 15_000,
    "deep block": "\n".join(" " * i + "a:" for i in range(300)),
    "dashes": "- " * 30_000,
    "a tag": "a: !!int 9",
    "code": "a: !!python/object/apply:os.system [touch hacked]",
    "a month that is none": "a: 2026-99-99",
    "key twice": "a: 1\na: 2",
    "large": "#" * 70_000,
    "not text": "\0",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_recipe_is_refused_at_once_in_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"bad\.yaml") as raised:
        read_recipe(file)
    assert len(str(raised.value)) < 600
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match=r"is no override|is not YAML|put it into"):
        parse_overrides([f"a={text}"])


@pytest.mark.parametrize("text", ["1" * 60_000 + "x", "1_" * 30_000 + ".e", "9" * 60_000, "1:" * 30_000 + "1"])
def test_a_long_number_is_text(tmp_path: Path, text: str) -> None:
    began = time.monotonic()
    assert parse_overrides([f"a={text}"]) == {"a": text}
    assert time.monotonic() - began < 10


def test_what_extends_is_a_short_chain_of_plain_files(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text("a: 0\n")
    for i in range(1, 30):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i - 1}.yaml\nb{i}: {i}\n")
    assert read_yaml(tmp_path / "7.yaml")["a"] == 0
    with pytest.raises(ValueError, match=r"29\.yaml extends more than 7 files in a row"):
        read_yaml(tmp_path / "29.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "one.yaml").symlink_to(tmp_path / "two.yaml")
    (tmp_path / "two.yaml").symlink_to(tmp_path / "one.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for base in ("/dev/zero", "pipe.yaml", "one.yaml", "folder.yaml", '"a\\0b"', "x" * 300, "[7.yaml]", "{a: 1}", "7"):
        file = tmp_path / "top.yaml"
        file.write_text(f"extends: {base}\n")
        with pytest.raises(ValueError, match=r"cannot be read|not a plain file|name of one file"):
            read_yaml(file)


def test_aliases_and_byte_order_marks_are_fine(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("\ufeffa: &a [1, 2]\nb: *a\n", encoding="utf-8")
    assert read_yaml(tmp_path / "plain.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.accumulate=0", r"loop\.accumulate is 0, but 1 to"),
        ("loop.epochs=.inf", r"loop\.epochs is inf, but a finite"),
        ("loop.epochs=1e999", r"loop\.epochs is inf, but a finite"),
        ("loop.lr=.nan", r"loop\.lr is nan, but a finite"),
        ("loop.batch=-3", r"loop\.batch is -3, but 1 to"),
        ("loop.batch=1.5", r"loop\.batch is 1\.5, but int"),
        ("loop.steps=1" + "0" * 50, r"loop\.steps is a whole number of about"),
        ("loop.betas=[0.9, 1.5]", r"loop\.betas is 1\.5"),
        ("loop.ema=1", r"loop\.ema is 1\.0"),
        ("data.shards=[]", r"data\.shards has 0 values"),
        ("data.workers=-1", r"data\.workers is -1"),
        ("data.plain=2", r"data\.plain is 2"),
        ("grounded.drop=-0.1", r"grounded\.drop is -0\.1"),
        ("vae.frames=0", r"vae\.frames is 0"),
        ("vocoder.resolutions=[0]", r"vocoder\.resolutions is 0"),
        ("starter_encoders.temperature=0", r"starter_encoders\.temperature is 0"),
        ("starter_segmenter.rounds=0", r"starter_segmenter\.rounds is 0"),
        ("model.unet.channels=[]", r"model\.unet\.channels has 0"),
        ("start.all=[1]", r"start.*is \[1\], but str"),
        ("preview.items=[{image: a.png, seed: -1}]", r"preview\.items\.seed is -1"),
        ("name=", r"name is None"),
        ("name=''", r"name is ''"),
    ],
)
def test_every_number_has_a_range(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"paper\.yaml: .*{message}"):
        read_recipe(RECIPES / "paper.yaml", overrides=[override])


@pytest.mark.parametrize("cls", [Recipe, FinetuneRecipe, ClassifierRecipe])
def test_no_number_of_any_settings_is_without_a_range(cls: type) -> None:
    seen: set[type] = set()

    def numbers(hint: Any, bounded: bool, where: str) -> None:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            numbers(arguments[0], bounded or any(isinstance(one, Range) for one in hint.__metadata__), where)
        elif dataclasses.is_dataclass(hint):
            look(hint, where)
        elif arguments and origin is not typing.Literal:
            for one in arguments[:1] if origin is tuple else arguments:  # the first kind counts for all
                numbers(one, bounded, where)
        else:
            assert bounded or hint not in (int, float), where

    def look(settings: Any, where: str) -> None:
        if settings not in seen:
            seen.add(settings)
            for name, hint in typing.get_type_hints(settings, include_extras=True).items():
                numbers(hint, False, f"{where}.{name}")

    look(cls, cls.__name__)
    assert LoopConfig in seen


def test_what_a_recipe_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("task: vae\nname: x\n")
    with pytest.raises(ValueError, match=r"short\.yaml: The key 'loop' is missing"):
        read_recipe(tmp_path / "short.yaml")
    with pytest.raises(ValueError, match="'lr' is no override"):
        parse_overrides(["lr"])


def test_a_bad_recipe_is_one_sentence_on_the_terminal(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "none.yaml cannot be read" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["a\nb", "9" * 5000, "\x1b[31m", "a\0b", "\ud800"])
def test_a_name_that_cannot_be_shown_is_said_on_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be read") as caught:
        read_yaml(tmp_path / name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
