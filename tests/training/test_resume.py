"""Runs that are killed, stopped or shared by processes end with the weights of an unbroken one of one process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from training.engine.loop import train
from training.engine.states import States

from .toys import ALONE, LAUNCH, LOOP, Line, Numbers, script, weights_of


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600  # a guard against hangs, however busy the machine is
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.exists()


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = Line()
    train(whole, Numbers(), LOOP, tmp_path / "whole")
    folder = tmp_path / "killed"
    file, result = script(tmp_path, folder, pause=0.1)
    for kills in range(3):
        process = subprocess.Popen([sys.executable, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        states = folder / "states"
        goal = 3 * (kills + 1)
        wait_for(states / f"step-{goal:08d}.state", process)
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


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_keeps_a_state_and_resume_is_exact(tmp_path: Path, processes: int) -> None:
    """No state but that of the signal is written: a resumed run can have come from nowhere else.

    As a scheduler does, all processes are sent it; a launcher, which is one of them, passes it on once more.
    """
    whole = Line()
    train(whole, Numbers(), dataclasses.replace(LOOP, accumulate=2), tmp_path / "whole")
    pause = 0.4 * processes**2  # a launcher passes the signal on, which takes it a while
    file, result = script(tmp_path, tmp_path / "stopped", pause, accumulate=2, save_steps=0)
    command = [*LAUNCH, str(file)] if processes == 2 else [sys.executable, str(file)]
    environment = os.environ | ALONE
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    wait_for(Path(f"{file}.{processes - 1}.6"), process)
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.terminate()
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
    wait_for(tmp_path / "run" / "states" / "step-00000003.state", process)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert not result.exists()
