"""What an engine does with rows, and with streams that are lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest

from training.cluster import engine as module
from training.cluster.engine import LocalEngine, RayEngine
from training.cluster.losses import Lost
from training.cluster.rows import Column, Row
from training.cluster.settings import EngineSettings, Resources
from training.cluster.stage import StopRun

COLUMNS = {"id": Column("count", "")}


class Keeps:
    """A stage that lets even numbers on."""

    name = "keeps"
    gpus_setting = "keeps.resources.gpus"
    resources = Resources(batch=3)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, rows: list[Row]) -> list[Row]:
        self.batches.append([row["id"] for row in rows])
        return [row for row in rows if row["id"] % 2 == 0]


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_all_rows_go_through_in_batches(count: int) -> None:
    first, second = Keeps(), Keeps()
    progress: list[tuple[int, int]] = []
    rows = ({"id": number} for number in range(count))
    LocalEngine().run([first, second], COLUMNS, rows, count, lambda *told: progress.append(told))
    assert list(chain.from_iterable(first.batches)) == list(range(count))
    assert list(chain.from_iterable(second.batches)) == list(range(0, count, 2))
    assert all(len(batch) == 3 for batch in first.batches[:-1] + second.batches[:-1])
    assert progress[-1] == (len(range(0, count, 2)), count)


class Unsteady(RayEngine):
    """An engine whose streams do some rows and are lost."""

    def __init__(self, settings: EngineSettings, losses: int, done: list[int]):
        super().__init__(settings)
        self.losses, self.done, self.streams = losses, done, list[list[int]]()

    def _stream(self, stages: Any, schema: Any, rows: list[Row], count_on: Callable[[int], None]) -> None:
        ids = [row["id"] for row in rows]
        self.streams.append(ids)
        lost = len(self.streams) <= self.losses
        self.done += ids[:2] if lost else ids
        if lost:
            raise Lost("A node is gone.")
        count_on(len(rows))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a connection to Ray ended."""
    found: list[str] = []
    monkeypatch.setattr(module, "started", lambda settings: SimpleNamespace(shutdown=lambda: found.append("ended")))
    return found


def test_streams_are_slabs_that_begin_again_with_what_is_left(ended: list[str]) -> None:
    done: list[int] = []
    engine = Unsteady(EngineSettings(slab=5), 2, done)
    rows = [{"id": number} for number in range(8)]
    engine.run([], COLUMNS, iter(rows), 8, None, lambda some: [row for row in some if row["id"] not in done])
    assert engine.streams == [[0, 1, 2, 3, 4], [2, 3, 4], [4], [5, 6, 7]]
    assert done == list(range(8))
    assert len(ended) == 3  # after each loss and at the end


def test_a_stream_that_is_lost_again_and_again_ends_the_run(ended: list[str]) -> None:
    engine = Unsteady(EngineSettings(restarts=2), 99, [])
    with pytest.raises(StopRun, match=r"A node is gone\. This happened 3 times; run the same command again"):
        engine.run([], COLUMNS, [{"id": 0}], 1)
    assert len(engine.streams) == len(ended) == 3


def test_a_run_without_an_address_joins_no_cluster_that_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray._private.services import canonicalize_bootstrap_address

    given: dict[str, Any] = {}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(ray, "init", lambda **settings: given.update(settings))
    module.started(EngineSettings(cpus=2))
    assert given["num_cpus"] == 2
    assert canonicalize_bootstrap_address(given.get("address")) is None  # Ray's own reading of it: a cluster is started
