"""Validation: what is held out, its loss with fixed noise, the best weights, and runs that break off around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.engine import loop as loop_module
from training.engine.environment import build_accelerator
from training.engine.loop import train
from training.engine.states import States
from training.engine.stopping import Stopped
from training.engine.validation import Validation, ValidationSettings, split, warn_of_overlap

from .helpers import read_log
from .toys import ALONE, LAUNCH, LOOP, Line, NamedNumbers, Numbers, end_after_saving, held_out, script, weights_of

EVERY = ValidationSettings(every=3, share=0.3)


class Many(NamedNumbers):
    """Items of any names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def ids(self) -> list[str]:
        return self.names

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": torch.from_numpy(rng.standard_normal(4, np.float32)), "id": self.names[index]}


def val_losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["val_loss"] for line in read_log(folder) if "val_loss" in line}


def test_an_item_is_held_out_by_its_id_alone() -> None:
    names = [f"clip {number}" for number in range(5000)]
    items, others = split(Many(names), 0.1)
    assert sorted(items.ids() + others.ids()) == sorted(names)
    assert len(others) / 5000 == pytest.approx(0.1, abs=0.02)
    more = [f"other {number}" for number in range(300)] + names[::-1]
    assert set(split(Many(more), 0.1)[1].ids()) & set(names) == set(others.ids())
    assert others.ids()[:5] == HELD_OUT
    assert others.item(3, np.random.default_rng(0))["id"] == others.ids()[3]


# In the lowest tenth by SHA-256: no version of this code may train on what another one held out.
HELD_OUT = ["clip 20", "clip 24", "clip 29", "clip 36", "clip 77"]


def test_bad_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="mixes all its items"):
        split(Numbers(), 0.1)
    with pytest.raises(ValueError, match="leaves 10 items to train on and 0 for validation of 10"):
        split(NamedNumbers(), 1e-6)
    with pytest.raises(ValueError, match=r"has share 0\.1 and shards"):
        ValidationSettings(share=0.1, shards="x")
    with pytest.raises(ValueError, match=r"validation\.every is set, but neither"):
        ValidationSettings(every=10)


def test_items_on_both_sides_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_overlap(Many(["a", "b", "c"]), Many(["d"]))
    warn_of_overlap(Numbers(), Many(["a"]))
    assert not caplog.records
    warn_of_overlap(Many(["a", "b", "c"]), Many(["c", "d", "b"]))
    assert "2 items are in validation.shards and in the training set: b, c" in caplog.text


def test_the_loss_is_the_mean_of_items_with_noise_of_their_own() -> None:
    accelerator, objective = build_accelerator(LOOP), Line().eval()
    names = [f"clip {number}" for number in range(23)]

    def loss(order: list[str], most: int = 100, workers: int = 0) -> float:
        settings = ValidationSettings(every=1, share=0.5, items=most)
        validation = Validation(Many(order), settings, lambda step, loss: None)
        return validation.loss(objective, LOOP, accelerator, workers=workers)

    found = loss(names)
    state = torch.random.get_rng_state()
    assert loss(names, workers=2) == pytest.approx(found, rel=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loss(names[::-1]) == pytest.approx(found, rel=1e-6)
    single = [loss([name]) for name in names]
    assert len(set(single)) == 23
    assert sum(single) / 23 == pytest.approx(found, rel=1e-6)
    few = loss(names, most=5)
    assert few == pytest.approx(loss(names[::-1], most=5), rel=1e-6)
    assert few != pytest.approx(found, rel=1e-3)


def test_what_is_held_out_is_never_trained_on_and_the_best_average_is_kept(tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watched(Line):
        def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            if self.training:
                seen.update(batch["id"])
            else:
                assert not torch.is_grad_enabled()
            return super().forward(batch)

    items, others = split(NamedNumbers(), 0.3)
    objective, kept = Watched(), list[tuple[int, float, dict[str, torch.Tensor]]]()
    validation = Validation(others, EVERY, lambda step, loss: kept.append((step, loss, weights_of(objective))))
    train(objective, items, LOOP, tmp_path, validation=validation)
    assert seen == set(items.ids())
    losses = val_losses(tmp_path)
    assert list(losses) == [3, 6, 9, 12]
    best = [step for step, loss in losses.items() if loss == min(x for s, x in losses.items() if s <= step)]
    assert [(step, loss) for step, loss, _ in kept] == [(step, losses[step]) for step in best]
    # The last ones are the weights that the run ends with: validation looked at the average.
    assert best[-1] == 12
    for name, value in weights_of(objective).items():
        assert torch.equal(kept[-1][2][name], value), name
    assert validation.loss(objective, LOOP, build_accelerator(LOOP)) == pytest.approx(losses[12], rel=1e-6)


def test_validation_changes_no_step(tmp_path: Path) -> None:
    items, validation = held_out(1)
    plain, other = Line(), Line()
    train(plain, items, LOOP, tmp_path / "plain")
    train(other, items, LOOP, tmp_path / "validated", validation=validation)
    for parameter, same in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same)


@pytest.mark.parametrize("where", ["between", "on"])
def test_a_run_that_breaks_off_keeps_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Between two validations by a kill, and with the step of one by SIGTERM, which does not wait for it."""
    kept: dict[str, list[tuple[int, float]]] = {"whole": [], "broken": []}

    def go(name: str) -> None:
        items, others = split(NamedNumbers(), 0.3)
        validation = Validation(others, EVERY, lambda step, loss: kept[name].append((step, loss)))
        train(Line(), items, LOOP, tmp_path / name, validation=validation)

    go("whole")
    expected: type[BaseException] = Stopped if where == "on" else KeyboardInterrupt
    with monkeypatch.context() as patch:
        if where == "on":
            asked = iter([False] * 5 + [True])
            patch.setattr(loop_module.Termination, "asked", lambda self: next(asked))
        else:
            end_after_saving(patch, 8, KeyboardInterrupt)
        with pytest.raises(expected):
            go("broken")
    go("broken")
    assert kept["broken"] == kept["whole"]
    assert val_losses(tmp_path / "broken") == val_losses(tmp_path / "whole")
    states = [States(tmp_path / name / "states").latest() for name in ("whole", "broken")]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0]["validation"] == states[1]["validation"] == (12, *kept["whole"][-1])


def test_two_processes_validate_as_one(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        file, _ = script(tmp_path, tmp_path / name, validate=3)
        command = [*LAUNCH, str(file)] if name == "two" else [LAUNCH[0], str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ALONE)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(val_losses(tmp_path / name))
    assert list(found[0]) == [3, 6, 9, 12]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
