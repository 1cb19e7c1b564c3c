"""Precision and memory: float16's loss scaler, TF32, gradient checkpointing."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sounding.model import SoundingModel
from training.engine import environment
from training.engine.environment import build_accelerator, tf32
from training.engine.loop import train
from training.engine.objective import Objective
from training.engine.states import States
from training.tasks.grounded import GroundedObjective, GroundedSettings
from training.tasks.vae import VaeObjective, VaeSettings
from training.tasks.vocoder import VocoderObjective, VocoderSettings

from .helpers import read_log
from .toys import LOOP, Line, Numbers, end_after_saving, plain_average, scaled, weights_of


class Overflowing(Line):
    """Its gradients overflow in the steps given, as float16's do where the loss scale is too large."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        step = self.calls
        loss = super().forward(batch)["loss"]
        return {"loss": _Overflow.apply(loss) if step in self.steps else loss}


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * math.inf


def test_a_loss_scale_changes_no_step(tmp_path: Path) -> None:
    """Powers of two scale exactly."""
    plain, other = Line(), Line()
    train(plain, Numbers(), LOOP, tmp_path / "plain")
    train(other, Numbers(), LOOP, tmp_path / "scaled", accelerator=scaled())
    for name, value in weights_of(plain).items():
        assert torch.equal(value, weights_of(other)[name]), name


def test_a_skipped_step_is_no_step_of_learning(tmp_path: Path) -> None:
    """Against AdamW and the average written out, over the steps that were not skipped."""
    trained, accelerator = Overflowing(0, 5, 6), scaled()
    train(trained, Numbers(), LOOP, tmp_path, accelerator=accelerator)
    for ours, expected in zip(trained.parameters(), plain_average(skipped=(0, 5, 6)), strict=True):
        torch.testing.assert_close(ours.detach().double(), expected, rtol=1e-5, atol=1e-6)
    # 2^8, halved by every skipped step, doubled after three good ones.
    scales = [128, 128, 128, 256, 256, 128, 64, 64, 64, 128, 128, 128]
    assert [line["loss_scale"] for line in read_log(tmp_path)] == [pytest.approx(sum(scales) / 12)]


def test_resume_keeps_the_scaler_and_what_was_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Overflowing(2, 3, 8)
    train(whole, Numbers(), LOOP, tmp_path / "whole", accelerator=scaled())

    class Killed(Exception):
        pass

    end_after_saving(monkeypatch, 5, Killed)
    with pytest.raises(Killed):
        train(Overflowing(2, 3, 8), Numbers(), LOOP, tmp_path / "killed", accelerator=scaled())
    monkeypatch.undo()
    resumed, accelerator = Overflowing(2, 3, 8), scaled()
    resumed.calls = 5
    train(resumed, Numbers(), LOOP, tmp_path / "killed", accelerator=accelerator)
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name
    states = [States(tmp_path / name / "states").latest() for name in ("whole", "killed")]
    for state in states:
        assert state is not None
        assert state["skipped"] == (3, 0)
    assert states[0]["scaler"] == states[1]["scaler"]  # type: ignore[index]


def test_a_scale_that_falls_for_ever_stops_the_run(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, steps=60)
    with pytest.raises(FloatingPointError, match="not finite at step 40"):
        train(Overflowing(*range(60)), Numbers(), loop, tmp_path, accelerator=scaled())


def test_float16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment.torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"loop\.precision is fp16, which needs a GPU"):
        build_accelerator(dataclasses.replace(LOOP, precision="fp16"))
    assert dataclasses.replace(LOOP, precision="fp16").mixed_precision == "fp16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float16_learns_on_a_gpu_and_resumes_exactly(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, precision="fp16", steps=200, keep=200)
    whole, resumed = Line(), Line()
    train(whole, Numbers(), loop, tmp_path / "run")
    for file in States(tmp_path / "run" / "states").files()[100:]:
        file.unlink()
    train(resumed, Numbers(), loop, tmp_path / "run")
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name
    assert read_log(tmp_path / "run")[-1]["loss"] < read_log(tmp_path / "run")[0]["loss"]


@pytest.mark.parametrize("allowed", [None, False, True])
def test_tf32_is_set_and_put_back(allowed: bool | None) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with tf32(allowed):
        inside = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert inside == (before if allowed is None else (allowed, allowed))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def objectives(model: SoundingModel) -> dict[str, Objective]:
    return {
        "grounded": GroundedObjective(model, GroundedSettings()),
        "vae": VaeObjective(model, VaeSettings(frames=32)),
        "vocoder": VocoderObjective(model, VocoderSettings(frames=16, resolutions=(256,)), fresh=False),
    }


@pytest.mark.parametrize("name", ["grounded", "vae", "vocoder"])
def test_checkpointing_gives_the_same_gradients_with_less_kept(tiny_model: SoundingModel, name: str) -> None:
    found = []
    for checkpointing in (False, True):
        objective = objectives(copy.deepcopy(tiny_model))[name]
        if checkpointing:
            objective.checkpoint_gradients()
        objective.train()
        torch.manual_seed(0)
        batch = objective.example(torch.device("cpu"))
        batch = {key: torch.randn_like(x) if x.is_floating_point() else x for key, x in batch.items()}
        weights = {x.untyped_storage().data_ptr() for x in objective.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()  # noqa: B023
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(batch)["loss"]
        loss.backward()
        gradients = {key: x.grad.clone() for key, x in objective.named_parameters() if x.grad is not None}
        found.append((loss.detach(), gradients, sum(size for at, size in kept.items() if at not in weights)))
    (loss, gradients, bytes_kept), (again, recomputed, fewer) = found
    assert torch.equal(loss, again)
    assert gradients.keys() == recomputed.keys()
    for key, value in gradients.items():
        assert torch.equal(value, recomputed[key]), key
    assert fewer < 0.9 * bytes_kept


def test_a_task_that_cannot_checkpoint_says_so(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"loop\.gradient_checkpointing is on, but nothing"):
        train(Line(), Numbers(), loop, tmp_path)
