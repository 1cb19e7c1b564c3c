"""Running stages over rows: by Ray Data on one machine or a cluster, or in this process. No other module knows Ray.

Each stage is a pool of actors that a stream of blocks goes through, so that decoding, models and endpoints work at the
same time. What goes wrong with Ray Data elsewhere is kept out here:

- Blocks hold texts and numbers (`rows.py`), a few hundred rows each, and every block has the same schema: nothing
  grows into gigabytes, is spilled, or overflows the 32-bit offsets of Arrow's binary columns.
- Pools that together ask for more CPUs than there are would wait for each other for ever; shares are made to fit.
- Errors of single rows are the stages' own matter and never reach Ray. `max_errored_blocks` stays 0: with actors that
  die it can hang, and it loses rows.
- Workers that die are started again by Ray and their batch is given to another one, so a stage writes what it keeps in
  such a way that a second time replaces the first.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from itertools import count as count_up
from typing import TYPE_CHECKING, Any, Protocol

from sounding.utils.libraries import LibraryError

from .placing import check_gpus
from .process import limit_process
from .rows import Column, Row, schema_of, to_table
from .settings import EngineSettings, Resources
from .stage import Stage, StopRun

if TYPE_CHECKING:
    import pyarrow

OnProgress = Callable[[int, int], None]  # rows that came through all stages, of how many that began
BLOCK_BYTES = 8 * 2**20  # what Ray may put into one block; some hundred rows have less
Left = Callable[[list[Row]], list[Row]]
SPARE = 0.1  # share of the CPUs that pools leave to Ray's own tasks
SMALLEST = 0.01  # CPUs
LOOK = 1.0  # s between looks at the nodes
DRAINED_IDLE = 4  # Ray's `AUTOSCALER_DRAIN_IDLE`
log = logging.getLogger("training")


class Engine(Protocol):
    """What runs stages."""

    def run(
        self,
        stages: Sequence[Stage],
        columns: dict[str, Column],
        rows: Iterable[Row],
        count: int,
        on_progress: OnProgress | None = None,
        left: Left = lambda rows: rows,
    ) -> None:
        """Take rows through the stages, which keep what they make of them.

        Args:
            stages: in their order.
            columns: of rows on their way, before and after every stage.
            rows: that go into the first stage; taken as they are needed.
            count: how many they are.
            on_progress: see `OnProgress`; rows that a stage keeps back never come through.
            left: asked after nodes or workers were lost: which of these rows are still to be taken through the stages,
                and how far they are.

        Raises:
            StopRun: the run cannot go on; what the stages have kept stays.
        """


def engine_of(settings: EngineSettings) -> Engine:
    """The engine that the settings name."""
    return RayEngine(settings) if settings.kind == "ray" else LocalEngine()


class LocalEngine:
    """One process and one batch after the other; needs no Ray."""

    def run(
        self,
        stages: Sequence[Stage],
        columns: dict[str, Column],
        rows: Iterable[Row],
        count: int,
        on_progress: OnProgress | None = None,
        left: Left = lambda rows: rows,
    ) -> None:
        """See Engine."""
        waiting: list[list[Row]] = [[] for _ in [*stages, None]]  # before each stage, and after the last one
        came = 0
        for row in chain(rows, [None]):  # the end
            if row is not None:
                waiting[0].append(row)
            for place, stage in enumerate(stages):
                batch = stage.resources.batch
                while len(waiting[place]) >= batch or (row is None and waiting[place]):
                    waiting[place + 1] += stage(waiting[place][:batch])
                    del waiting[place][:batch]
            came += len(waiting[-1])
            waiting[-1].clear()
            if on_progress is not None:
                on_progress(came, count)


class Actor:
    """A stage as an actor of Ray Data: tables in, tables out."""

    def __init__(self, stage: Stage, schema: pyarrow.Schema, cpus: float, folder: str):
        limit_process(stage, cpus, folder)
        self.stage, self.schema = stage, schema

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """One batch."""
        return to_table(self.stage(table.to_pylist()), self.schema)


def shares(asked: Sequence[Resources], nodes: Sequence[float]) -> list[float]:
    """CPUs per worker of each stage, scaled down until one worker of every stage fits, on whichever nodes they land.

    A worker of `s` CPUs finds no place if on each node less than `s` is free. So there is one for each if all others
    together take no more than what the nodes have beyond `s`.

    Args:
        asked: by each stage.
        nodes: CPUs of each node.
    """
    room = [(1 - SPARE) * cpus for cpus in nodes]

    def fits(sizes: Sequence[float]) -> bool:
        beyond = ((size, [cpus - size for cpus in room if cpus >= size]) for size in sizes)
        return all(free and sum(sizes) - size <= sum(free) + 1e-9 for size, free in beyond)

    scale = 1.0
    while scale > SMALLEST and not fits([scale * each.cpus for each in asked]):
        scale *= 0.98
    return [max(SMALLEST, int(100 * each.cpus * scale + 1e-6) / 100) for each in asked]


class Lost(Exception):
    """Nodes or workers are gone with what they were at, and Ray does not go on by itself; the rest can be run again."""


class RayEngine:
    """Ray Data: on a cluster that runs, or on one that is started on this machine and ends with the run."""

    def __init__(self, settings: EngineSettings):
        self.settings = settings
        self._ray: Any = None  # while connected

    def run(
        self,
        stages: Sequence[Stage],
        columns: dict[str, Column],
        rows: Iterable[Row],
        count: int,
        on_progress: OnProgress | None = None,
        left: Left = lambda rows: rows,
    ) -> None:
        """See Engine."""
        following = iter(rows)
        came = 0

        def count_on(more: int) -> None:
            nonlocal came
            came += more
            if on_progress is not None:
                on_progress(came, count)

        try:
            while slab := list(islice(following, self.settings.slab)):
                self._persist(stages, schema_of(columns), slab, count_on, left)
        finally:
            self._disconnect()

    def _persist(
        self,
        stages: Sequence[Stage],
        schema: pyarrow.Schema,
        rows: list[Row],
        count_on: Callable[[int], None],
        left: Left,
    ) -> None:
        """Stream rows, and what is left of them again after losses."""
        for restarts in count_up():
            try:
                if self._ray is None:
                    self._ray = started(self.settings)
                self._stream(stages, schema, rows, count_on)
                return
            except Exception as error:
                lost = self._judge(error)
                self._disconnect()
                if restarts == self.settings.restarts:
                    raise StopRun(
                        f"{lost} This happened {restarts + 1} times; run the same command again, and what is left is "
                        "done."
                    ) from error
                whole, rows = len(rows), left(rows)
                log.warning("%s %d of %d rows are left, and begun again with.", lost, len(rows), whole)
                if not rows:
                    return

    def _judge(self, error: Exception) -> Lost:
        """What an error says, if it is one of losses; else it, or the error of a stage that it wraps, is raised."""
        found = next((each for each in causes(error) if isinstance(each, Lost)), None)
        if found is not None:
            return found
        cause = stop_run_in(error)
        if cause is not None:
            raise cause from None
        if self._ray is not None and is_loss(self._ray, error):
            return Lost(f"Workers of the Ray cluster are gone ({str(error).strip().splitlines()[0][:200]}).")
        raise error

    def _disconnect(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _stream(
        self, stages: Sequence[Stage], schema: pyarrow.Schema, rows: list[Row], count_on: Callable[[int], None]
    ) -> None:
        ray = self._ray
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        context.custom_execution_callback_classes = [NodeWatch]
        size = self.settings.block
        blocks = [to_table(rows[start : start + size], schema) for start in range(0, len(rows), size)]
        data = ray.data.from_arrow(blocks)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_gpus(stages, [node.get("GPU", 0.0) for node in nodes])
        cpus_of = shares([stage.resources for stage in stages], [node.get("CPU", 0.0) for node in nodes])
        for stage, cpus in zip(stages, cpus_of, strict=True):
            asked = stage.resources
            data = data.map_batches(
                Actor,
                fn_constructor_args=(stage, schema, cpus, os.getcwd()),
                batch_size=asked.batch,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=asked.workers),
                num_cpus=cpus,
                num_gpus=asked.gpus or None,
            )
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            count_on(table.num_rows)


class NodeWatch:
    """Ends a stream as soon as a node is lost: a callback of Ray Data's executor, which calls it many times per second.

    Ray Data gives the work of lost workers to others, but it waits for ever where the rest of the cluster has no room
    for a worker of each stage, and loses days where it restarts whole pools.
    """

    def __init__(self) -> None:
        self.before: set[str] = set()
        self.next = 0.0

    def before_execution_starts(self, executor: Any) -> None:
        """Remember the nodes."""
        self.before = alive()

    def on_execution_step(self, executor: Any) -> None:
        """Look at the nodes.

        Raises:
            Lost: there are fewer.
        """
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + LOOK
        gone = self.before - alive()
        if gone:
            raise Lost(f"{len(gone)} of {len(self.before)} nodes of the Ray cluster are gone.")

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""


def alive() -> set[str]:
    """Nodes that are there, and those that an autoscaler took away because nothing ran on them."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"] or node.get("DeathReason") == DRAINED_IDLE}


def is_loss(ray: Any, error: BaseException) -> bool:
    """Whether an error is about processes or machines, and not about what a stage did."""
    kinds = ray.exceptions
    losses = (
        kinds.RayActorError,
        kinds.NodeDiedError,
        kinds.ObjectLostError,
        kinds.WorkerCrashedError,
        kinds.OutOfMemoryError,
        kinds.RaySystemError,
        kinds.LocalRayletDiedError,
    )
    wrapped = causes(error)
    of_stage = [
        each for each in wrapped if isinstance(each, kinds.RayTaskError) and not isinstance(each.cause, kinds.RayError)
    ]
    return not of_stage and any(isinstance(each, losses) for each in wrapped)


def started(settings: EngineSettings) -> Any:
    """Ray, connected to a cluster.

    Raises:
        LibraryError: Ray is not installed.
        StopRun: there is no cluster at the address.
    """
    # No reports to Ray's makers. And under `uv run` Ray would send the whole working directory to each worker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are for those who work on Ray
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LibraryError(
            "Ray is not installed, but engine.kind is ray; install the extra refine (`uv run --extra train --extra "
            "refine ...`), or set engine.kind=local."
        ) from error
    if settings.address:
        try:
            ray.init(address=settings.address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise StopRun(f"There is no Ray cluster at {settings.address} ({str(error)[:200]}).") from None
    else:
        ray.init(
            num_cpus=settings.cpus or None,
            object_store_memory=settings.object_store_mb * 2**20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def stop_run_in(error: BaseException) -> StopRun | None:
    """The `StopRun` of a stage that Ray's errors wrap."""
    found = next((each for each in causes(error) if isinstance(each, StopRun)), None)
    return found and StopRun(str(found.args[0]) if found.args else str(found))


def causes(error: BaseException) -> list[BaseException]:
    """An error and all that it wraps."""
    waiting: list[Any] = [error]
    seen: list[BaseException] = []
    while waiting:
        current = waiting.pop()
        if isinstance(current, BaseException) and current not in seen:
            seen.append(current)
            waiting += [current.__context__, current.__cause__, getattr(current, "cause", None)]
    return seen
