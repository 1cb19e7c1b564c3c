"""The shared training loop: order of items, exact resume, several processes, states, and what stops a run."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.engine import learner
from training.engine import states as states_module
from training.engine.learner import learning_rate
from training.engine.loader import Order, build_loader
from training.engine.loop import train
from training.engine.objective import Objective
from training.engine.settings import LoopConfig
from training.engine.states import States
from training.tasks.discriminators import LeastSquaresCritic

ROOT = Path(__file__).parents[2]


class Numbers:
    """Ten items, each with noise of its own."""

    def __len__(self) -> int:
        return 10

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": torch.from_numpy(rng.standard_normal(4, np.float32)) + index}


class Line(Objective):
    """A linear map with a running statistic, as grounding has one; learns to turn items round."""

    def __init__(self, bad_step: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.calls, self.bad_step = 0, bad_step
        self.register_buffer("level", torch.tensor(0.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["x"]
        with torch.no_grad():
            self.level += 0.1 * (x.mean() - self.level)
        loss = (self.layer(x) - x.flip(1)).square().mean()
        if self.calls == self.bad_step:
            loss = loss * math.nan
        self.calls += 1
        return {"loss": loss}


LOOP = LoopConfig(batch=4, lr=0.05, steps=12, warmup=2, precision="fp32", ema=0.9, save_steps=1, keep=2, seed=3)


@pytest.mark.parametrize(
    ("asked", "fast", "taken"),
    [("auto", True, "bf16"), ("auto", False, "no"), ("bf16", False, "bf16"), ("fp32", True, "no")],
)
def test_bf16_is_taken_where_it_is_fast_or_asked_for(monkeypatch, asked, fast, taken) -> None:
    monkeypatch.setattr(learner, "fast_bf16", lambda: fast)
    assert LoopConfig(batch=1, lr=1.0, precision=asked).mixed_precision == taken


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_every_epoch_visits_every_item_once() -> None:
    numbers = [place for batch in Order(10, batch=5, steps=6, seed=1) for place in batch]
    assert [number for number, _ in numbers] == list(range(30))
    epochs = [[index for _, index in numbers[start : start + 10]] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_processes_and_micro_batches_share_a_step() -> None:
    whole = [sorted(batch) for batch in Order(10, batch=8, steps=3, seed=1)]
    parts: list[list[tuple[int, int]]] = [[] for _ in range(3)]
    for rank in range(2):
        for place, batch in enumerate(Order(10, batch=8, steps=3, seed=1, accumulate=2, rank=rank, processes=2)):
            assert len(batch) == 2
            parts[place // 2] += batch
    assert [sorted(part) for part in parts] == whole
    with pytest.raises(ValueError, match="multiple of 3"):
        Order(10, batch=8, steps=1, processes=3)


def test_a_later_start_sees_what_it_would_have_seen() -> None:
    assert list(Order(10, batch=4, steps=9, seed=2))[5:] == list(Order(10, batch=4, steps=9, first=5, seed=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_the_same_items(workers: int) -> None:
    order = Order(10, batch=4, steps=3, seed=2)
    here = [batch["x"] for batch in build_loader(Numbers(), order)]
    there = [batch["x"] for batch in build_loader(Numbers(), order, workers=workers)]
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_learning_rate_warms_up_and_falls_or_stays() -> None:
    loop = LoopConfig(batch=1, lr=1.0, steps=1000, warmup=100)
    assert learning_rate(0, 1000, loop) == pytest.approx(0.01)
    assert learning_rate(100, 1000, loop) == pytest.approx(1.0)
    assert learning_rate(550, 1000, loop) == pytest.approx(0.02 + 0.98 / 2, rel=1e-2)
    assert learning_rate(999, 1000, loop) == pytest.approx(0.02, abs=1e-3)
    constant = LoopConfig(batch=1, lr=1.0, steps=1000, warmup=0, schedule="constant")
    assert {learning_rate(step, 1000, constant) for step in (0, 500, 999)} == {1.0}


def test_epochs_are_counted_in_steps() -> None:
    assert LoopConfig(batch=4, lr=1.0, epochs=3).length(10) == 8
    with pytest.raises(ValueError, match="one of the two"):
        LoopConfig(batch=4, lr=1.0).length(10)


def test_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Against AdamW, clipping and averaging written out; the average's warm-up is diffusers'."""
    trained = Line()
    train(trained, Numbers(), LOOP, tmp_path)
    plain = Line()
    parameters = list(plain.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=LOOP.betas, eps=LOOP.eps, weight_decay=0.0)
    average = [p.detach().double().clone() for p in parameters]
    for step, batch in enumerate(build_loader(Numbers(), Order(10, batch=4, steps=12, seed=3))):
        optimizer.param_groups[0]["lr"] = learning_rate(step, 12, LOOP)
        plain(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, LOOP.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        average = [decay * a + (1 - decay) * p.detach().double() for a, p in zip(average, parameters, strict=True)]
    for ours, expected in zip(trained.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_are_one_batch(tmp_path: Path) -> None:
    results = []
    for accumulate in (1, 2):
        objective = Line()
        loop = LoopConfig(batch=4, lr=0.05, steps=6, accumulate=accumulate, precision="fp32")
        train(objective, Numbers(), loop, tmp_path / str(accumulate))
        results.append(objective.layer.weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


SCRIPT = """
import dataclasses, os, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
import torch
from test_loop import LOOP, Line, Numbers
from training.engine.loop import train
class Slow(Line):
    def forward(self, batch):
        Path(f"{{__file__}}.{{os.environ.get('RANK', 0)}}.{{self.calls}}").touch()
        if not Path(f"{{__file__}}.told").exists():
            time.sleep({pause})
        return super().forward(batch)
objective = Slow()
train(objective, Numbers(), dataclasses.replace(LOOP, **{changes!r}), Path({folder!r}), workers={workers})
if int(os.environ.get("RANK", 0)) == 0:
    torch.save(objective.state_dict(), {result!r})
"""
# On CPUs `accelerate launch` begins one process, whatever number it is given; what it calls for GPUs begins two.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ALONE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def script(tmp_path: Path, folder: Path, pause: float = 0.0, workers: int = 0, **changes: Any) -> tuple[Path, Path]:
    """A program that trains with changes of LOOP, and where it puts the weights. It says how often it was called, and
    pauses at each call until it is told not to.
    """
    file, result = tmp_path / f"{folder.name}.py", tmp_path / f"{folder.name}.pt"
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "folder": str(folder), "result": str(result)}
    file.write_text(SCRIPT.format(**places, pause=pause, workers=workers, changes=changes))
    return file, result


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = Line()
    train(whole, Numbers(), LOOP, tmp_path / "whole")
    folder = tmp_path / "killed"
    file, result = script(tmp_path, folder, pause=0.1)
    for kills in range(3):
        process = subprocess.Popen([sys.executable, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        states = folder / "states"
        goal = 3 * (kills + 1)
        deadline = time.monotonic() + 120
        while not (states / f"step-{goal:08d}.state").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.037 * kills)  # another place within a step each time
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not result.exists()
    subprocess.run([sys.executable, file], check=True, capture_output=True)
    resumed = torch.load(result, weights_only=True)
    for name, value in weights_of(whole).items():
        assert torch.equal(value, resumed[name]), name


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    whole = Line()
    train(whole, Numbers(), LOOP, tmp_path / "one")
    file, result = script(tmp_path, tmp_path / "two")
    done = subprocess.run([*LAUNCH, str(file)], capture_output=True, text=True, env=os.environ | ALONE)
    assert done.returncode == 0, done.stderr[-2000:]
    shared = torch.load(result, weights_only=True)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-6)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]

    for one, two in zip(*logs, strict=True):
        assert json.loads(two)["loss"] == pytest.approx(json.loads(one)["loss"], rel=1e-4)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 600  # a guard against hangs, however busy the machine is
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_keeps_a_state_and_resume_is_exact(tmp_path: Path, processes: int) -> None:
    """No state but that of the signal is written: a resumed run can have come from nowhere else."""
    whole = Line()
    train(whole, Numbers(), dataclasses.replace(LOOP, accumulate=2), tmp_path / "whole")
    pause = 0.4 * processes**2  # a launcher passes the signal on, which takes it a while
    file, result = script(tmp_path, tmp_path / "stopped", pause, accumulate=2, save_steps=0)
    command = [*LAUNCH, str(file)] if processes == 2 else [sys.executable, str(file)]
    environment = os.environ | ALONE
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    wait_for(Path(f"{file}.{processes - 1}.6"))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1].decode()
    Path(f"{file}.told").touch()
    assert process.returncode, said
    assert process.returncode == 143 or processes == 2, said  # what a launcher ends with is its own
    assert not result.exists()
    (state,) = States(tmp_path / "stopped" / "states").files()
    assert 3 <= States.step(state) < 12
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed = torch.load(result, weights_only=True)
    for name, value in weights_of(whole).items():
        if processes == 1:
            assert torch.equal(value, resumed[name]), name
        else:  # sums over processes round differently
            torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-6)


def test_sigterm_is_as_before_behind_a_training(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(Line(), Numbers(), LOOP, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_a_run_with_workers_once(tmp_path: Path) -> None:
    """The signal reaches all processes of a job; those that read ahead leave the end to the first one."""
    file, result = script(tmp_path, tmp_path / "run", pause=0.1, workers=2)
    process = subprocess.Popen([sys.executable, file], stderr=subprocess.PIPE, start_new_session=True)
    wait_for(tmp_path / "run" / "states" / "step-00000003.state")
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert not result.exists()


def test_a_loss_that_is_not_finite_stops_with_items_and_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 5, with the items \d.*step-00000005\.state"):
        train(Line(bad_step=5), Numbers(), LOOP, tmp_path)
    state = torch.load(tmp_path / "states" / "step-00000005.state", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["learner"]["module"].values())


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    train(Line(), Numbers(), LOOP, tmp_path)
    assert [file.name for file in States(tmp_path / "states").files()] == ["step-00000011.state", "step-00000012.state"]


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = States(tmp_path)
    states.save(1, {"x": torch.ones(3)})
    last = states.save(2, {"x": torch.zeros(3)})
    assert last is not None
    last.write_bytes(last.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        found = states.latest()
    assert found is not None
    assert found["step"] == 1
    assert "step-00000002.state is damaged" in caplog.text
    for file in states.files():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="No state in"):
        states.latest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = States(tmp_path, keep=1)
    first = states.save(1, {"x": torch.ones(3)})
    assert first is not None
    before = first.read_bytes()
    real = states_module.torch.save

    def to_a_full_disk(value: Any, file: Any) -> None:
        with open("/dev/full", "wb") as full:  # the kernel's own "No space left on device"
            real(value, full)

    monkeypatch.setattr(states_module.torch, "save", to_a_full_disk)
    assert states.save(2, {"x": torch.zeros(100_000)}) is None
    assert "disk is full: no state of step 2 was kept" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000001.state"]
    assert first.read_bytes() == before


class Loud(LeastSquaresCritic):
    """Scores by level alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        hidden = self.scale * x
        return [[hidden, hidden.mean(dim=1, keepdim=True)]]


class Made(Objective):
    """A level that only the critic's opinion can teach."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        real = torch.ones_like(batch["x"])
        return {"loss": 0 * self.level, "real": real, "made": self.level * real}


def test_a_critic_teaches_what_no_distance_does(tmp_path: Path) -> None:
    objective, critic = Made(), Loud()
    objective.adversarial_weight, objective.matching_weight = 1.0, 2.0
    loop = LoopConfig(batch=4, lr=0.02, steps=60, warmup=0, precision="fp32", betas=(0.5, 0.9), weight_decay=0.0)
    train(objective, Numbers(), loop, tmp_path, critic=critic)
    assert float(objective.level.detach()) > 0.5
    assert float(critic.scale.detach()) > 0.1
    state = States(tmp_path / "states").latest()
    assert state is not None
    assert torch.equal(state["critic"]["module"]["scale"], critic.scale.detach())
