"""The same pipeline on Ray, with its processes killed: a driver in the middle of its work, then a worker."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from itertools import permutations, product
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from training.cluster.engine import shares, started, stop_run_in
from training.cluster.settings import EngineSettings, Resources
from training.cluster.stage import StopRun
from training.refine.manifest import read_manifest
from training.refine.pipeline import refine

from .material import settings_of

PATIENCE = 300  # s, for a process to appear on a busy machine


def waiting_for(found: Callable[[], bool], process: BaseProcess) -> bool:
    """Whether something happens before the process ends."""
    end = time.monotonic() + PATIENCE
    while process.is_alive() and time.monotonic() < end:
        if found():
            return True
        process.join(0.02)
    return False


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cluster of this process, which drivers connect to."""
    # Ray starts a dozen interpreters; where no bytecode may lie beside the sources, each would compile all of them.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    ray = started(EngineSettings(cpus=2, object_store_mb=80))
    yield ray.get_runtime_context().gcs_address
    left = psutil.Process().children(recursive=True)
    ray.shutdown()
    _, alive = psutil.wait_procs([process for process in left if is_of_ray(process)], timeout=PATIENCE)
    assert not alive


def is_of_ray(process: psutil.Process, name: str = "") -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return words.startswith(f"ray::{name}") if name else "/ray/" in words or words.startswith("ray::")


def workers() -> list[psutil.Process]:
    """Processes that run steps."""
    return [process for process in psutil.Process().children(recursive=True) if is_of_ray(process, "MapWorker")]


def test_killed_drivers_and_workers_lose_and_double_nothing(material: Path, tmp_path: Path, address: str) -> None:
    out = tmp_path / "out"
    settings = settings_of(material, out, engine__kind="ray", engine__address=address)
    processes = multiprocessing.get_context("spawn")
    driver = processes.Process(target=refine, args=(settings,))
    driver.start()
    assert waiting_for(lambda: any(out.glob("steps/clips-*/*/part-*.parquet")), driver)
    abandoned = workers()
    assert abandoned
    driver.kill()
    driver.join()
    _, alive = psutil.wait_procs(abandoned, timeout=PATIENCE)
    assert not alive  # they end with their driver
    assert not (out / "manifest.parquet").exists()

    driver = processes.Process(target=refine, args=(settings,))
    driver.start()
    assert waiting_for(lambda: bool(workers()), driver)
    workers()[0].kill()
    driver.join()
    assert driver.exitcode == 0
    refine(settings_of(material, tmp_path / "local"))
    assert read_manifest(out) == read_manifest(tmp_path / "local")


@pytest.mark.parametrize("nodes", [[1.0], [2.0], [1.0, 1.0], [4.0, 0.0, 2.0], [64.0]])
def test_one_worker_of_every_stage_fits_wherever_the_others_are(nodes: list[float]) -> None:
    found = shares([Resources(cpus=asked) for asked in (1, 4, 0.1)], nodes)
    assert found[1] > found[0] > found[2] > 0
    assert nodes != [64.0] or found == [1, 4, 0.1]
    for order in permutations(found):
        for places in product(range(len(nodes)), repeat=len(order)):
            free = list(nodes)
            for size, place in zip(order, places, strict=True):
                where = place if free[place] >= size else free.index(max(free))
                assert free[where] >= size
                free[where] -= size


def test_a_step_that_stops_the_run_is_heard_through_the_errors_of_ray() -> None:
    from ray.exceptions import RayTaskError

    inner = RayTaskError("measure", "traceback", StopRun("no key"))
    outer = RayTaskError("map", "traceback", RuntimeError("wrapped"))
    outer.__cause__ = inner
    for error in (inner, outer, inner.as_instanceof_cause()):
        found = stop_run_in(error)
        assert found is not None
        assert str(found) == "no key"
    assert stop_run_in(RayTaskError("map", "traceback", RuntimeError("another"))) is None
