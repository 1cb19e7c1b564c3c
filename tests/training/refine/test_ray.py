"""The same pipeline on a Ray cluster of two nodes, whose drivers, workers and nodes are killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread, main_thread
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pyarrow import parquet

from training.refine import pipeline
from training.refine.manifest import read_manifest
from training.refine.outcome import parts_of
from training.refine.parts import Parts
from training.refine.pipeline import refine
from training.refine.settings import RephraseSettings
from training.refine.step import Step
from training.refine.steps.rephrase import RephraseStep

from . import killing
from .killing import PATIENCE, CaptionsSomewhere, ClipsSomewhere, FatalParts
from .material import KEPT, settings_of

if TYPE_CHECKING:
    from training.data.storage import Location

pytestmark = pytest.mark.slow

SYSTEM = {
    # A node counts as dead after some seconds; Ray's own values take half a minute.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
    # Workers have no lower priority than the tests beside this one, as they have otherwise.
    "worker_niceness": 0,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU, each with an object store of its own, on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            # Ray starts a dozen interpreters; each of them would compile all sources again.
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        from ray import cloudpickle
        from ray.cluster_utils import Cluster

        cloudpickle.register_pickle_by_value(killing)  # workers may know another package called tests
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        others = set(psutil.Process().children())  # such as a cluster of other tests in this process
        made = Cluster(
            initialize_head=True, head_node_args={**node, "include_dashboard": False, "_system_config": SYSTEM}
        )
        made.add_node(**node)
        yield made
        left = [
            process
            for child in set(psutil.Process().children()) - others
            for process in (child, *child.children(recursive=True))
        ]
        made.shutdown()
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


def waiting_for(found: Callable[[], bool], process: BaseProcess | Thread) -> bool:
    """Whether something happens before the process ends."""
    for _ in range(int(PATIENCE / 0.02)):
        if found():
            return True
        if not process.is_alive():
            return False
        process.join(0.02)
    return False


def written(out: Path) -> dict[str, Counter[str]]:
    """How often each clip is among the results of each step."""
    found: dict[str, Counter[str]] = {}
    for file in (out / "steps").glob("*/*/part-*.parquet"):
        step = file.parts[-3].split("-")[0]
        found.setdefault(step, Counter()).update(parquet.read_table(file)["id"].to_pylist())
    return found


@pytest.fixture(scope="module")
def unbroken(material: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The manifest of a run in one process."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    refine(settings_of(material, out))
    return read_manifest(out)


def test_killed_drivers_and_workers_lose_and_double_nothing(
    material: Path, tmp_path: Path, cluster: Any, unbroken: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver is killed in the middle of its work; then workers of the next one at random writes."""
    out, done, draw = tmp_path / "out", tmp_path / "kills", random.Random(0)
    settings = settings_of(material, out, engine__kind="ray", engine__address=cluster.address)
    driver = multiprocessing.get_context("spawn").Process(target=refine, args=(settings,))
    driver.start()
    assert waiting_for(lambda: any(out.glob("steps/clips-*/*/part-*.parquet")), driver)
    abandoned = workers()
    assert abandoned
    driver.kill()
    driver.join()
    _, alive = psutil.wait_procs(abandoned, timeout=PATIENCE)
    assert not alive  # they end with their driver
    assert not (out / "manifest.parquet").exists()

    done.mkdir()
    moments = [(step, clip) for step in ("captions", "rephrase") for clip in KEPT]
    before = {moment: draw.random() < 0.5 for moment in draw.sample(moments, 4)}

    def fatal(out: Location, steps: Sequence[Step]) -> dict[str, Parts]:
        parts = parts_of(out, steps)
        return {step.name: FatalParts.of(parts[step.name], step, before, done) for step in steps}

    monkeypatch.setattr(pipeline, "parts_of", fatal)
    refine(settings)
    assert {tuple(mark.name.split("-")) for mark in done.iterdir()} == set(before)
    assert read_manifest(out) == unbroken
    assert all(set(counts.values()) == {1} for counts in written(out).values())


def test_a_node_that_dies_midway_takes_nothing_with_it(
    material: Path,
    tmp_path: Path,
    cluster: Any,
    unbroken: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No node has room for both large steps, so both are at work; what is left has to fit onto one of them."""
    gate, out = tmp_path / "gate", tmp_path / "out"
    steps = [ClipsSomewhere(gate, 0.6), CaptionsSomewhere(0.6), RephraseStep(RephraseSettings())]
    monkeypatch.setattr(pipeline, "steps_of", lambda settings, ontology: steps)
    settings = settings_of(material, out, engine__kind="ray", engine__address=cluster.address, engine__block=2)
    (second,) = cluster.worker_nodes

    def end_node() -> None:
        if waiting_for(lambda: any(out.glob("steps/captions-*/*/part-*.parquet")), main_thread()):
            raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
            for process in [raylet, *raylet.children(recursive=True)]:
                process.kill()
        gate.touch()

    killer = Thread(target=end_node)
    killer.start()
    with caplog.at_level(logging.WARNING, "training"):
        refine(settings)
    killer.join()
    assert "1 of 2 nodes of the Ray cluster are gone" in caplog.text
    rows = read_manifest(out)
    nodes = {row[name] for row in rows for name in ("clips_node", "captions_node")} - {None}
    assert len(nodes) == 2
    where = ("clips_node", "captions_node")
    assert [{name: value for name, value in row.items() if name not in where} for row in rows] == unbroken
    assert all(set(counts.values()) == {1} for counts in written(out).values())
