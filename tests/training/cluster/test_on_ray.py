"""Workers on Ray have the threads and GPUs that their stages declare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.cluster.engine import RayEngine
from training.cluster.settings import EngineSettings
from training.cluster.stage import StopRun

from .probes import COLUMNS, Keeps, Probe


def engine(address: str) -> RayEngine:
    return RayEngine(EngineSettings(address=address, block=1))


def test_each_worker_has_the_threads_and_gpus_of_its_stage(cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    stages = [Probe("alone"), Probe("first", gpus=0.5), Probe("second", gpus=0.5), Keeps(str(file))]
    came: list[int] = []
    engine(cluster).run(stages, COLUMNS, [{"id": "a"}, {"id": "b"}], 2, lambda done, count: came.append(done))
    assert came[-1] == 2
    wanted = []
    for name, visible in (("alone", ""), ("first", "0"), ("second", "0")):  # one GPU for both
        for number in (1, 2):  # in one process each
            wanted.append(f"{name}: 1 threads, GPUs {visible!r}, {number} rows, {os.getcwd()}")
    assert sorted(line.split(" ", 1)[1] for line in file.read_text().splitlines()) == sorted(wanted)


def test_gpus_that_are_not_there_are_refused_before_anything_runs(cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    with pytest.raises(StopRun, match=r"^many asks for 2 GPUs per worker, but .* set many\.gpus to 1 or less"):
        engine(cluster).run([Probe("few"), Probe("many", gpus=2), Keeps(str(file))], COLUMNS, [{"id": "a"}], 1)
    with pytest.raises(StopRun, match=r"does not fit into the 1 GPUs of the cluster \(one\.gpus=1, half\.gpus=0\.5\)"):
        engine(cluster).run([Probe("one", gpus=1), Probe("half", gpus=0.5)], COLUMNS, [{"id": "a"}], 1)
    assert not file.exists()
