"""Whole runs of ablations with tiny models: what is made and kept, and that a stopped run ends as an unbroken one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.object_set import read_manifest
from training.engine.settings import LoopConfig
from training.evaluate.models.classifier import Classifier, write_classifier
from training.recipe import Recipe, read_recipe
from training.starter.ablate.figures import condition_of
from training.starter.ablate.masks import altered, overlap
from training.starter.ablate.rows import Cell, chosen_rows
from training.starter.ablate.run import Ablations
from training.starter.ablate.settings import AblationSettings
from training.starter.ablate.text_diffusion import TextDiffusionObjective, TextDiffusionTask
from training.starter.grounded import StarterGroundedSettings
from training.tasks.task import Context

from ..helpers import random_batch

LOOP = {"steps": 2, "batch": 2, "lr": 1e-3, "warmup": 0, "precision": "fp32", "trackers": "none"}
ROWS = ["ours", "ours.text", "ours.whole", "ours.clamped", "audio_query"]
Make = Callable[[Path], Ablations]


@pytest.fixture(scope="module")
def recipes(tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan and recipes for the tiny model."""
    folder = tmp_path_factory.mktemp("recipes")
    parts = dict.fromkeys(("patches", "query", "vae", "vocoder"), str(tiny_checkpoint))
    start = Recipe("text_diffusion", "start", LoopConfig(**LOOP), dtype="fp32", model=tiny_config, start=parts)
    begun = {"all": "start", "grounding": "random"}
    grounded = dataclasses.replace(start, task="starter_grounded", settings=None, name="ours", start=begun)
    (folder / "start.yaml").write_text(start.to_yaml(), encoding="utf-8")
    for name in ("ours", "audio_query", "additive"):
        (folder / f"{name}.yaml").write_text(dataclasses.replace(grounded, name=name).to_yaml(), encoding="utf-8")
    plan = {"objects": 3, "scenes": 4, "per_object": 1, "pairs": 1, "sampling_steps": 2, "seeds": [1]}
    plan |= {"sound_query": LOOP, "judge": {"seconds": 1.28, "loop": LOOP}}
    (folder / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def judge(stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    names = [entry.name for entry in read_manifest(stamps_folder)]
    torch.manual_seed(0)
    write_classifier(file, Classifier(len(names), width=4), names)
    return file


@pytest.fixture(scope="module")
def make(recipes: Path, judge: Path, stamps_folder: Path) -> Make:
    settings: AblationSettings = read_recipe(recipes / "plan.yaml", AblationSettings)
    return lambda out: Ablations(stamps_folder, judge, out, settings, chosen_rows(ROWS), recipes)


@pytest.fixture(scope="module")
def unbroken(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Ablations:
    run = make(tmp_path_factory.mktemp("unbroken"))
    made = [str(work) for work in run.run()]
    shared = ["scenes and their features", "judge", "common start", "queries by sound"]
    ours = ("training ours", "ours", "ours.text", "ours.whole", "ours.clamped")
    audio = ("training audio_query", "audio_query")
    assert made == [*shared, *(f"{name}, seed 1" for name in (*ours, *audio))]
    return run


def contents(run: Ablations) -> dict[str, Any]:
    return {
        name: {seed: (found["figures"], found["made_of"]["weights"]) for seed, found in seeds.items()}
        for name, seeds in run.results().items()
    }


def test_all_that_is_asked_for_is_made_and_nothing_twice(unbroken: Ablations) -> None:
    assert all(work.done for work in unbroken.work())
    assert set(unbroken.results()) == set(ROWS)
    assert not unbroken.failed
    before = {file: file.stat().st_mtime_ns for file in unbroken.out.rglob("*.safetensors")}
    before |= {file: file.stat().st_mtime_ns for file in unbroken.out.rglob("*.wav")}
    list(dataclasses.replace(unbroken).run())
    assert before == {file: file.stat().st_mtime_ns for file in before}
    figures = unbroken.results()["ours"][1]["figures"]
    assert {"acc", "fad", "kl", "kad", "control", "top1", "top5"} <= figures.keys()
    assert figures != unbroken.results()["ours.text"][1]["figures"]


def test_a_run_that_was_stopped_ends_as_an_unbroken_one(make: Make, unbroken: Ablations, tmp_path: Path) -> None:
    for things in (3, 6):  # before the queries by sound, and after the first cell
        for _ in itertools.islice(make(tmp_path).run(), things):
            pass
    sounds = next((tmp_path / "sounds").glob("ours-1-*"))
    next(sounds.glob("*.wav")).unlink()  # as if it had been stopped in the middle of a cell
    (tmp_path / "cells" / "ours-1.json").unlink()
    assert len(make(tmp_path).results()) > 0 or not list((tmp_path / "cells").glob("*.json"))
    last = make(tmp_path)
    list(last.run())
    assert contents(last) == contents(unbroken)


def test_a_cell_of_another_judge_is_to_be_measured_again(make: Make, unbroken: Ablations, tmp_path: Path) -> None:
    out = shutil.copytree(unbroken.out, tmp_path / "out")
    run = dataclasses.replace(make(unbroken.out), out=out, read={})
    file = out / "cells" / "audio_query-1.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    found["made_of"]["judge"] = "another"
    file.write_text(json.dumps(found), encoding="utf-8")
    assert [str(work) for work in run.work() if not work.done] == ["audio_query, seed 1"]


def test_a_cell_whose_masks_cannot_be_made_is_left_out_alone(make: Make, unbroken: Ablations) -> None:
    run = dataclasses.replace(make(unbroken.out), rows=chosen_rows(["ours.grabcut", "ours.noisy"]), failed={})
    run.material.coverages.pop("grabcut", None)
    run.material.missing["grabcut"] = "GrabCut needs OpenCV."
    list(run.run())
    assert run.failed == {"ours.grabcut, seed 1": "GrabCut needs OpenCV."}
    assert set(run.results()) == {*ROWS, "ours.noisy"}


def test_ways_to_select_differ_in_the_weights_alone(unbroken: Ablations) -> None:
    model = SoundingModel.from_pretrained(unbroken.recipe("ours", 1).result)
    weights = {
        cell.name: condition_of(model, unbroken.material, cell).weights
        for cell in (
            Cell("ours"),
            Cell("ours", by="text"),
            Cell("ours", clamp=True),
            Cell("ours", masks="whole"),
            Cell("ours", deviation="query"),
        )
    }
    patches = weights["ours"].shape[1]
    assert torch.allclose(weights["ours.whole"], torch.full_like(weights["ours"], 1 / patches))
    spread = weights["ours"].std(dim=-1, unbiased=False)
    assert torch.allclose(spread, model.grounding.weight_std.expand_as(spread), atol=1e-6)
    own = weights["ours.text"].std(dim=-1, unbiased=False)
    assert torch.allclose(weights["ours.deviation-query"].std(dim=-1, unbiased=False), own, atol=1e-6)
    assert float(weights["ours.clamped"].min()) >= 0


def test_worse_masks_are_worse_in_their_own_ways() -> None:
    mask = np.zeros((100, 100), np.float32)
    mask[30:70, 20:60] = 1
    made = {kind: altered(mask, kind, np.random.default_rng(0)) for kind in ("eroded", "dilated", "noisy", "perfect")}
    assert overlap(made["perfect"], mask) == 1
    assert made["eroded"].sum() == pytest.approx(32 * 32, rel=0.02)
    assert made["dilated"].sum() > 48 * 40 + 40 * 8 - 1
    assert 0.5 < overlap(made["noisy"], mask) < 0.99
    tiny = np.zeros((100, 100), np.float32)
    tiny[50, 50] = 1
    assert altered(tiny, "eroded", np.random.default_rng(0)).sum() == 1
    with pytest.raises(ValueError, match="'torn', but perfect, whole, eroded, dilated or noisy"):
        altered(mask, "torn", np.random.default_rng(0))


def test_sentences_alone_train_the_unet_alone(tiny_config: SoundingConfig) -> None:
    objective = TextDiffusionObjective(SoundingModel(tiny_config), StarterGroundedSettings())
    batch = random_batch() | {"spread": torch.rand(3)}
    losses = objective(batch)
    losses["loss"].backward()
    learnt = {name.split(".")[0] for name, one in objective.named_parameters() if one.grad is not None}
    assert learnt == {"unet"}
    condition, _ = objective.conditions(batch)
    assert condition[:2].square().mean(dim=(1, 2)).tolist() == pytest.approx([1, 1], rel=1e-5)
    assert torch.equal(condition[2], objective.grounding.null)


def test_sentences_must_be_as_wide_as_conditions(tiny_config: SoundingConfig) -> None:
    other = dataclasses.replace(tiny_config, grounding=dataclasses.replace(tiny_config.grounding, condition_width=8))
    model = SoundingModel(other)
    with pytest.raises(ValueError, match="condition_width is 8, but the embeddings of sentences have 16"):
        TextDiffusionTask().objective(model, StarterGroundedSettings(), Context())


def test_the_command_is_mounted_and_plans(recipes: Path, judge: Path, stamps_folder: Path, unbroken: Ablations) -> None:
    asked = ["evaluate", "ablate", "--data", str(stamps_folder), "--judge", str(judge), "--out", str(unbroken.out)]
    asked += ["--recipes", str(recipes), "--only", "ours", "--only", "ours.text", "--set", "seeds=[1, 2]"]
    planned = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "6 of 9 things are there" in planned.output
    assert "ours.text, seed 2: under 1 min" in planned.output
    assert not (unbroken.out / "trained" / "ours-2").exists()
    reported = CliRunner().invoke(app, [*asked, "--report-only"])
    assert reported.exit_code == 0, reported.output
    assert "## Claims" in (unbroken.out / "ablations.md").read_text(encoding="utf-8")
    report = json.loads((unbroken.out / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["items"] == 4
    assert {row["cell"] for row in report["rows"] if row["by_seed"]} >= set(ROWS)  # those not chosen, too
    wrong = CliRunner().invoke(app, [*asked, "--only", "theirs"])
    assert wrong.exit_code == 1
    assert "There is no row 'theirs'" in wrong.output
