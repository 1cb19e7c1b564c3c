"""Patch and query encoders against each other."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import sounding
from sounding.config import QueryConfig, SoundingConfig
from training.data.object_set import ObjectSet
from training.data.settings import DataSettings
from training.engine.loader import Order, build_loader
from training.initialization import initialize
from training.run import run
from training.starter.encoders import SceneItems, StarterEncodersObjective, StarterEncodersSettings
from training.tasks.encoders import attention_loss, contrastive_loss

from ..conftest import ROOT
from .helpers import read_log, recipe_of


def test_encoders_learn_where_the_named_object_is(
    tiny_config: SoundingConfig, stamps_data: ObjectSet, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("starter_encoders", tiny_config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    loop = dataclasses.replace(recipe.loop, lr=1e-2, steps=40)
    recipe = dataclasses.replace(recipe, loop=loop, settings=StarterEncodersSettings())
    run(recipe)
    logged = read_log(recipe.folder)
    assert logged[-1]["loss"] < 0.85 * logged[0]["loss"]
    model = initialize(recipe)
    objective = StarterEncodersObjective(model, recipe.settings, stamps_data.entries)
    batch = next(iter(build_loader(SceneItems(stamps_data, model), Order(50, batch=4, steps=1))))
    assert batch["grids"].shape == (4, 4, 25)
    assert ((batch["grids"].sum(-1) > 0) <= (batch["labels"] >= 0)).all()
    assert torch.isfinite(objective(batch)["loss"])


def test_encoders_learn_from_what_a_scene_sounds_like(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    query = QueryConfig(tower="clap_audio", width=16, hidden=8, heads=1, depths=(1, 1, 1, 1), tokenizer="")
    grounding = dataclasses.replace(tiny_config.grounding, query="audio")
    config = dataclasses.replace(tiny_config, query=query, grounding=grounding)
    recipe = recipe_of("starter_encoders", config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    loop = dataclasses.replace(recipe.loop, lr=3e-3, steps=12, log_every=3)
    model = sounding.load(run(dataclasses.replace(recipe, loop=loop, settings=StarterEncodersSettings())), device="cpu")
    logged = read_log(recipe.folder)
    assert logged[-1]["attention"] < logged[0]["attention"]
    assert "region" not in logged[0]
    condition = model.ground(torch.randn(1, 25, 16), sound=torch.randn(1, 16_000))
    assert condition.tokens.shape == (1, 1, 16)


def test_attention_loss_is_least_where_attention_is_on_the_object() -> None:
    patches = torch.eye(4)[None] * 10  # four patches, each its own direction
    coverage = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    right, wrong = torch.eye(4)[1:2] * 10, torch.eye(4)[2:3] * 10
    assert attention_loss(right, patches, coverage) < 1e-6
    expected = 10 * 10 / 4**0.5  # log(e^0 / e^50) but for the rest
    assert float(attention_loss(wrong, patches, coverage)) == pytest.approx(expected, rel=1e-3)


def test_contrastive_loss_is_that_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    first, second = (functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    expected = ClipLoss()(first, second, logit_scale=torch.tensor(1 / 0.07))
    torch.testing.assert_close(contrastive_loss(3 * first, second, 0.07), expected)


SHARED_GRADIENT = """
import sys
rank, folder = int(sys.argv[1]), sys.argv[2]
sys.path.insert(0, sys.argv[3])
import torch
from training.tasks.encoders import contrastive_loss, gather
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
rows, weight = torch.randn(2, 6, 8), torch.randn(8, 8, requires_grad=True)
first, second = (gather(part[3 * rank : 3 * rank + 3] @ weight) for part in rows)
contrastive_loss(first, second, 0.1).backward()
torch.distributed.all_reduce(weight.grad)  # what processes do with gradients: their mean
torch.save(weight.grad / 2, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_contrast_over_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARED_GRADIENT]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path), str(ROOT)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    torch.manual_seed(0)
    rows, weight = torch.randn(2, 6, 8), torch.randn(8, 8, requires_grad=True)
    contrastive_loss(rows[0] @ weight, rows[1] @ weight, 0.1).backward()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), weight.grad, rtol=1e-4, atol=1e-6)
