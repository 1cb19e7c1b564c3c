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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sounding.utils.libraries import LibraryError

from .rows import Column, Row, schema_of, to_table
from .settings import EngineSettings, Resources
from .stage import Stage, StopRun

if TYPE_CHECKING:
    import pyarrow

OnProgress = Callable[[int, int], None]  # rows that came through all stages, of how many that began
BLOCK_BYTES = 8 * 2**20  # what Ray may put into one block; some hundred rows have less
SPARE = 0.1  # share of the CPUs that pools leave to Ray's own tasks
log = logging.getLogger("training")


class Engine(Protocol):
    """What runs stages."""

    def run(
        self, stages: Sequence[Stage], columns: dict[str, Column], rows: list[Row], on_progress: OnProgress | None
    ) -> None:
        """Take rows through the stages, which keep what they make of them.

        Args:
            stages: in their order.
            columns: of rows on their way, before and after every stage.
            rows: that go into the first stage.
            on_progress: see `OnProgress`; rows that a stage keeps back never come through.

        Raises:
            StopRun: the run cannot go on; what the stages have kept stays.
        """


def engine_of(settings: EngineSettings) -> Engine:
    """The engine that the settings name."""
    return RayEngine(settings) if settings.kind == "ray" else LocalEngine()


class LocalEngine:
    """One process and one batch after the other; needs no Ray."""

    def run(
        self, stages: Sequence[Stage], columns: dict[str, Column], rows: list[Row], on_progress: OnProgress | None
    ) -> None:
        """See Engine."""
        waiting: list[list[Row]] = [[] for _ in [*stages, None]]  # before each stage, and after the last one
        came = 0
        for number, row in enumerate(rows):
            waiting[0].append(row)
            last = number + 1 == len(rows)
            for place, stage in enumerate(stages):
                batch = stage.resources.batch
                while len(waiting[place]) >= batch or (last and waiting[place]):
                    waiting[place + 1] += stage(waiting[place][:batch])
                    del waiting[place][:batch]
            came += len(waiting[-1])
            waiting[-1].clear()
            if on_progress is not None:
                on_progress(came, len(rows))


class Actor:
    """A stage as an actor of Ray Data: tables in, tables out."""

    def __init__(self, stage: Stage, schema: pyarrow.Schema):
        self.stage, self.schema = stage, schema

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """One batch."""
        return to_table(self.stage(table.to_pylist()), self.schema)


def shares(asked: Sequence[Resources], cpus: float) -> list[float]:
    """CPUs per worker of each stage, scaled down where one worker of every stage would not fit into what there is."""
    scale = min(1.0, (1 - SPARE) * cpus / sum(each.cpus for each in asked))
    return [max(0.01, int(100 * each.cpus * scale) / 100) for each in asked]


class RayEngine:
    """Ray Data: on a cluster that runs, or on one that is started on this machine and ends with the run."""

    def __init__(self, settings: EngineSettings):
        self.settings = settings

    def run(
        self, stages: Sequence[Stage], columns: dict[str, Column], rows: list[Row], on_progress: OnProgress | None
    ) -> None:
        """See Engine."""
        if not rows:
            return
        ray = started(self.settings)
        try:
            self._stream(ray, stages, columns, rows, on_progress)
        except ray.exceptions.RayError as error:
            cause = stop_run_in(error)
            if cause is None:
                raise
            raise cause from None
        finally:
            ray.shutdown()

    def _stream(
        self,
        ray: Any,
        stages: Sequence[Stage],
        columns: dict[str, Column],
        rows: list[Row],
        on_progress: OnProgress | None,
    ) -> None:
        schema = schema_of(columns)
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        size = self.settings.block
        blocks = [to_table(rows[start : start + size], schema) for start in range(0, len(rows), size)]
        data = ray.data.from_arrow(blocks)
        resources = ray.cluster_resources()
        cpus_of = shares([stage.resources for stage in stages], resources.get("CPU", 1.0))
        for stage, cpus in zip(stages, cpus_of, strict=True):
            asked = stage.resources
            if asked.gpus > resources.get("GPU", 0):
                raise StopRun(
                    f"{stage.name} asks for {asked.gpus:g} GPUs per worker, but the cluster has "
                    f"{resources.get('GPU', 0):g}; set {stage.name}.resources.gpus=0."
                )
            data = data.map_batches(
                Actor,
                fn_constructor_args=(stage, schema),
                batch_size=asked.batch,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=asked.workers),
                num_cpus=cpus,
                num_gpus=asked.gpus or None,
            )
        came = 0
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            came += table.num_rows
            if on_progress is not None:
                on_progress(came, len(rows))


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
    waiting: list[Any] = [error]
    seen: list[BaseException] = []
    while waiting:
        current = waiting.pop()
        if isinstance(current, StopRun):
            return StopRun(str(current.args[0]) if current.args else str(current))
        if isinstance(current, BaseException) and current not in seen:
            seen.append(current)
            waiting += [current.__context__, current.__cause__, getattr(current, "cause", None)]
    return None
