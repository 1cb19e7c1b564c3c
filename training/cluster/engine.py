"""Running stages over rows: by Ray Data on one machine or a cluster, or in this process. No other room knows Ray.

Each stage is a pool of actors that a stream of blocks goes through, so that decoding, models and endpoints work at the
same time. What goes wrong with Ray Data elsewhere is kept out here:

- Blocks hold texts and numbers (`rows.py`), a few hundred rows each, and every block has the same schema: nothing
  grows into gigabytes, is spilled, or overflows the 32-bit offsets of Arrow's binary columns.
- Pools that together ask for more CPUs than there are would wait for each other for ever; shares are made to fit.
- Errors of single rows are the stages' own matter and never reach Ray. `max_errored_blocks` stays 0: with actors that
  die it can hang, and it loses rows.
- Ray holds all blocks that go into a stream, so a long list is taken through in slabs, one stream after the other.
- Workers that die are started again by Ray and their batch is given to another one, so a stage writes what it keeps in
  such a way that a second time replaces the first. Where Ray gives up, or a node is lost (`losses.py`), the stream
  begins again with the rows that are left.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from itertools import count as count_up
from typing import TYPE_CHECKING, Any, Protocol

from sounding.utils.libraries import LibraryError

from .losses import NodeWatch, loss_in
from .placing import check_gpus, shares
from .process import limit_process
from .rows import Column, Row, schema_of, to_table
from .settings import EngineSettings
from .stage import Stage, StopRun

if TYPE_CHECKING:
    import pyarrow

OnProgress = Callable[[int, int], None]  # rows that came through all stages, of how many that began
BLOCK_BYTES = 8 * 2**20  # what Ray may put into one block; some hundred rows have less
Left = Callable[[list[Row]], list[Row]]
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
                lost = loss_in(error)
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
            address="local",  # else Ray would join any cluster that it finds on this machine or in RAY_ADDRESS
            num_cpus=settings.cpus or None,
            object_store_memory=settings.object_store_mb * 2**20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray
