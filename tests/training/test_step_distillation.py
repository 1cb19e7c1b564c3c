"""Trajectories of a model's sampler, and a student that learns to follow them in a few evaluations."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sounding
from sounding.config import SoundingConfig
from sounding.grounding import Condition
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.trajectories import TrajectorySettings, TrajectorySource, trajectories
from training.engine.loader import SPREAD
from training.recipe import RECIPES, Recipe, read_recipe
from training.run import prepare, run
from training.tasks.step_distillation import StepDistillationObjective, StepDistillationSettings, TrajectoryItems

FEW = TrajectorySettings(steps=8, points=4, cfg=3.0, per_clip=2)


@pytest.fixture(scope="module")
def paths(features: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trajectories of the tiny model, two per scene."""
    out = tmp_path_factory.mktemp("trajectories") / "paths"
    index = make_shards(TrajectorySource(features, sounding.load(tiny_checkpoint, device="cpu"), FEW), out)
    assert (index.samples, index.bare, index.skipped) == (12, (), ())
    return out


def recipe(paths: Path, checkpoint: Path, out: Path, *overrides: str) -> Recipe:
    changes = [
        "loop.steps=3",
        "loop.epochs=0",
        "loop.batch=4",
        "loop.precision=fp32",
        "dtype=fp32",
        f"out={out}",
        "loop.trackers=none",
    ]
    changes += [f"start.all={checkpoint}", f"data.shards={paths}", "data.workers=0"]
    return read_recipe(RECIPES / "distil.yaml", overrides=[*changes, *overrides])


def test_a_trajectory_is_the_way_of_the_models_own_sampler(paths: Path, tiny_checkpoint: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    row = Shards(paths, ("tokens", "trajectory"))[3]
    path = row["trajectory"].float()
    assert path.shape == (5, 8, 32, 16)
    made = sampled(model, row["tokens"].float()[None], path[:1], steps=8, cfg=3.0, sampler="dpm++")
    assert torch.allclose(made, path[-1], atol=2e-3 * float(made.abs().max()))  # noise is stored in half precision
    assert path[0].std() == pytest.approx(1, abs=0.05)


def sampled(
    model: SoundingModel, tokens: torch.Tensor, noise: torch.Tensor, *, steps: int, cfg: float, sampler: str
) -> torch.Tensor:
    """By `SoundingModel.sample`, as generation does it."""
    condition = Condition(tokens, torch.ones(1, 25) / 25, torch.ones(1), ("mask",))
    return model.sample(condition, noise, steps=steps, cfg=cfg, sampler=sampler)[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_jumps_are_steps_of_ddim(tiny_config: SoundingConfig, prediction: str) -> None:
    """diffusers' solver is the reference, by way of `SoundingModel.sample`."""
    diffusion = dataclasses.replace(tiny_config.diffusion, prediction=prediction)
    torch.manual_seed(1)
    model = SoundingModel(dataclasses.replace(tiny_config, diffusion=diffusion)).requires_grad_(False)
    objective = StepDistillationObjective(model, StepDistillationSettings(evaluations=4)).requires_grad_(False)
    tokens, noise = torch.randn(1, 1, 16), torch.randn(1, 8, 32, 16)
    latents = noise
    for number in range(4):
        latents = objective.jump(latents, torch.tensor([number]), tokens)
    wanted = sampled(model, tokens, noise, steps=4, cfg=1.0, sampler="ddim")
    assert torch.allclose(latents[0], wanted, atol=1e-4 * float(wanted.abs().max()))


def test_trajectories_do_not_depend_on_shards_or_batches(features: Path, tiny_checkpoint: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    whole = list(TrajectorySource(features, model, FEW).samples(0, 5))
    single = TrajectorySource(features, model, FEW, batch=1).make(4)
    assert [sample.id for sample in whole][:3] == ["train-0-0", "train-0-1", "train-1-0"]
    for name, values in single.features.items():
        other = whole[4].features[name].astype(np.float32)
        assert np.allclose(values.astype(np.float32), other, atol=5e-3 * float(np.abs(other).max()))


def test_a_clip_that_cannot_be_read_is_left_out(
    features: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TrajectorySource(features, sounding.load(tiny_checkpoint, device="cpu"), FEW)
    read = Shards.__getitem__

    def broken(self: Shards, number: int) -> dict[str, object]:
        if number == 1:
            raise ValueError("Sample 1 is damaged.")
        return read(self, number)

    monkeypatch.setattr(Shards, "__getitem__", broken)
    made = list(source.samples(0, 6))
    assert [sample.id for sample in made][1:4] == ["train-0-1", "trajectory 2", "trajectory 3"]
    assert made[2].why == "Sample 1 is damaged."


def test_a_trajectory_that_is_not_finite_is_left_out(
    features: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: SoundingModel, condition: torch.Tensor, noise: torch.Tensor, **settings: object) -> torch.Tensor:
        latents = torch.stack([noise] * 5, dim=1)
        latents[1] = float("inf")
        return latents

    monkeypatch.setattr("training.data.trajectories.trajectories", broken)
    source = TrajectorySource(features, sounding.load(tiny_checkpoint, device="cpu"), FEW)
    made = list(source.samples(0, 3))
    assert [sample.id for sample in made[::2]] == ["train-0-0", "train-1-0"]
    assert made[1].why == "In its trajectory are values that are not finite as float16."


def test_a_student_comes_nearer_to_its_teacher(paths: Path, tiny_checkpoint: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    settings = StepDistillationSettings(evaluations=2)
    items = TrajectoryItems(str(paths), model, settings)
    rows = [items.item(n, np.random.default_rng(n)) for n in range(8)]
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("tokens", "trajectory")}
    batch[SPREAD] = torch.arange(8) / 8
    objective = StepDistillationObjective(model, settings)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]
    assert model.grounding.to_query.weight.grad is None


def test_the_recipe_makes_a_checkpoint_that_says_how_it_is_sampled(
    paths: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = run(recipe(paths, tiny_checkpoint, tmp_path, "loop.ema=0.5"))
    student, teacher = sounding.load(result, device="cpu"), sounding.load(tiny_checkpoint, device="cpu")
    own = student.config.generation
    assert (own.steps, own.cfg, own.sampler) == (4, 1.0, "ddim")
    assert own.norm_ratio == teacher.config.generation.norm_ratio
    for part in ("grounding", "vae", "vocoder", "patches"):
        for mine, theirs in zip(getattr(student, part).parameters(), getattr(teacher, part).parameters(), strict=True):
            assert torch.equal(mine, theirs)
    calls = []
    student.unet.register_forward_hook(lambda *_: calls.append(1))
    sound = student.generate(image=torch.rand(1, 32, 32, 3), mask=torch.ones(1, 32, 32), seconds=1.28)
    assert sound.waveform.isfinite().all()
    assert len(calls) == 4


def test_a_student_of_low_rank_stays_beside_its_teacher(paths: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    low = ["step_distillation.rank=3", "loop.lr=0.05", "loop.warmup=1"]
    both, teacher = (
        sounding.load(run(recipe(paths, tiny_checkpoint, tmp_path, *low)), device="cpu"),
        sounding.load(tiny_checkpoint, device="cpu"),
    )
    assert both.config.generation == teacher.config.generation
    assert (both.config.unet.few_steps, both.config.unet.few_steps_rank) == (4, 3)
    for name, value in teacher.unet.state_dict().items():
        assert torch.equal(both.unet.state_dict()[name], value), name
    assert any(float(changed.abs().max()) > 0 for changed in both.unet.few_steps.out.values())
    # A run that goes on from it with all weights has a student no more, for that is of a U-Net that was.
    whole = tmp_path / "both.safetensors"
    both.save_pretrained(whole, dtype=torch.float32)
    ready = prepare(recipe(paths, whole, tmp_path / "whole"))
    assert ready.model is not None
    assert ready.model.config.unet.few_steps == 0
    assert not hasattr(ready.model.unet, "few_steps")


def test_trajectories_of_another_model_or_number_of_points_are_refused(
    paths: Path, features: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"have 4 points, but step_distillation.evaluations is 3"):
        prepare(recipe(paths, tiny_checkpoint, tmp_path, "step_distillation.evaluations=3"))
    with pytest.raises(ValueError, match="holds no trajectories"):
        prepare(recipe(features, tiny_checkpoint, tmp_path))
    other = sounding.load(tiny_checkpoint, device="cpu")
    changed = copy.deepcopy(other)
    changed.grounding.to_value.weight.data += 1
    with pytest.raises(ValueError, match="made by a model with other encoders, grounding or VAE"):
        TrajectoryItems(str(paths), changed, StepDistillationSettings())
    with pytest.raises(ValueError, match="steps should be a multiple of points; take 16 steps"):
        TrajectorySettings(steps=12, points=8)
    with pytest.raises(ValueError, match="at most 1 together"):
        TrajectorySettings(masks=0.9, backgrounds=0.2)
    with pytest.raises(ValueError, match="evenly spaced"):
        TrajectorySource(features, other, TrajectorySettings(sampler="dpm++ karras"))


def test_the_command(features: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = ["prepare", "trajectories", "--features", str(features), "--model", str(tiny_checkpoint)]
    asked += ["--out", str(tmp_path / "paths"), "--steps", "4", "--points", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "6 samples in 1 shards" in done.output
    settings = json.loads((tmp_path / "paths" / "shards.json").read_text())["settings"]
    assert (settings["cfg"], settings["sampler"], settings["points"]) == (7.0, "dpm++", 2)
    wrong = CliRunner().invoke(app, [*asked, "--sampler", "euler"])
    assert wrong.exit_code != 0


def test_trajectories_keep_the_noise_first_and_the_result_last(tiny_model: SoundingModel) -> None:
    noise = torch.randn(2, 8, 32, 16)
    condition = torch.randn(2, 1, 16)
    path = trajectories(tiny_model, condition, noise, steps=4, points=2, cfg=2.0, sampler="ddim")
    assert torch.equal(path[:, 0], noise)
    assert path.shape == (2, 3, 8, 32, 16)
    alone = trajectories(tiny_model, condition[:1], noise[:1], steps=4, points=1, cfg=2.0, sampler="ddim")
    assert torch.allclose(alone[0, -1], path[0, -1], atol=1e-4 * float(path.abs().max()))
