"""`loop.compile`: the same steps, one graph whatever the items are called, and exact resume."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from sounding.model import SoundingModel
from training.engine.environment import build_accelerator
from training.engine.loop import train
from training.engine.optimization import TrainedModule, backward
from training.tasks.grounded import GroundedObjective, GroundedSettings

from .helpers import random_batch
from .toys import LOOP, Line, Numbers, end_after_saving, weights_of

COMPILED = dataclasses.replace(LOOP, compile=True)


class Turned(Line):
    """A Line that counts no calls, of which each would be a graph of its own."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["x"]
        with torch.no_grad():
            self.level += 0.1 * (x.mean() - self.level)
        return {"loss": (self.layer(x) - x.flip(1)).square().mean()}


def test_grounding_and_unet_are_one_graph_whatever_items_are_called(
    tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are no numbers: were they part of the graph, every step would be compiled anew. No C++ compiler is needed."""
    counter, compiled = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiled(module, backend=counter))
    found = []
    for loop in (LOOP, COMPILED):
        objective = GroundedObjective(copy.deepcopy(tiny_model), GroundedSettings()).train()
        trained = TrainedModule(objective, loop, build_accelerator(loop))
        torch.manual_seed(0)
        losses = []
        for step in range(3):
            batch = {"id": [f"item {step} {place}" for place in range(3)], **random_batch()}
            losses.append(backward(trained, None, batch, 1)["loss"])
            trained.step(1e-3)
        found.append(torch.stack(losses))
    assert counter.frame_count == 1
    torch.testing.assert_close(*found)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_steps_are_those_of_a_plain_run_and_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole, resumed = Turned(), Turned(), Turned()
    train(plain, Numbers(), LOOP, tmp_path / "plain")
    train(whole, Numbers(), COMPILED, tmp_path / "whole")
    with monkeypatch.context() as patch:
        end_after_saving(patch, 5, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train(Turned(), Numbers(), COMPILED, tmp_path / "killed")
    train(resumed, Numbers(), COMPILED, tmp_path / "killed")
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name
        torch.testing.assert_close(value, weights_of(plain)[name], rtol=1e-4, atol=1e-6)
