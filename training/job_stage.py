"""Jobs files of `sounding generate --jobs` done by workers of Ray, on one machine or a cluster.

Each worker runs the library's own pipeline over some hundred lines at a time, with a part of the results of its own;
the first process joins the parts. So a job's sound and its result are those of `sounding generate`, and what a run that
was killed has finished is known by its results.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sounding.diffusion import OnStep
from sounding.jobs.job import Fault, Job, Setting, parse_job, setting_of
from sounding.jobs.results import Result, Results
from sounding.jobs.run import DeviceFailure, left_to_do, run_jobs
from sounding.model import SoundingModel, load

from .cluster.engine import engine_of
from .cluster.process import device_for
from .cluster.rows import Column, Row
from .cluster.settings import EngineSettings, Resources
from .cluster.stage import StopRun

ROWS = 128  # lines that a worker takes at once: enough for full batches, few enough to be begun again
COLUMNS = {"line": Column("count", "its number"), "job": Column("text", "its JSON")}


class JobStage:
    """Does the jobs that rows name.

    Args:
        model: "starter" or the path of a checkpoint.
        device: as it was asked for, such as "auto".
        defaults: of keys that lines leave out.
        folder: in which all sounds are written.
        results: of all workers; each has a part.
        resources: of a worker.
    """

    name, gpus_setting = "jobs", "--gpus"

    def __init__(
        self,
        model: str,
        device: str,
        defaults: Mapping[str, Any],
        folder: Path | None,
        results: Path,
        resources: Resources,
    ):
        self.model, self.device, self.defaults, self.folder = model, device, dict(defaults), folder
        self.results, self.resources = results, resources
        self._setting: Setting | None = None
        self._loaded: SoundingModel | None = None
        self._written: Results | None = None

    def __call__(self, rows: list[Row]) -> list[Row]:
        """See `cluster.stage.Stage`."""
        try:
            if self._setting is None:
                self._setting = setting_of(self.model, self.defaults, self.folder)
            if self._written is None:
                written = Results(self.results, f"{platform.node()}-{os.getpid()}")
                written.open()
                self._written = written  # for as long as this worker lives; the first process joins and removes it
            parsed = [parse_job(row["line"], row["job"], self._setting) for row in rows]
            todo = left_to_do(parsed, self._written, _unheard)
            if todo:
                if self._loaded is None:
                    self._loaded = load(self.model, device=device_for(self.device))
                run_jobs(self._loaded, todo, self._written, _unheard)
        except (DeviceFailure, OSError, ValueError) as error:
            raise StopRun(str(error)) from error
        return rows


def _unheard(result: Result) -> None:
    """A worker's results are in its part."""


def do_jobs(
    engine: EngineSettings,
    stage: JobStage,
    jobs: list[Job | Fault],
    texts: Mapping[int, str | None],
    on_step: OnStep | None = None,
) -> list[Result]:
    """Do jobs by an engine; the results of all, in the order of the lines.

    Args:
        engine: that does them.
        stage: with its settings.
        jobs: that were checked.
        texts: of their lines, by number.
        on_step: called with the jobs done and their number.

    Raises:
        StopRun: the run cannot go on; what is done is kept.
        ValueError: another run writes the same results.
    """
    results = Results(stage.results)
    results.open()
    told: dict[int, Result] = {}
    complete = False
    try:
        results.join()  # what workers of a killed run left, so that parts have this run's results alone
        todo = left_to_do(jobs, results, lambda result: told.update({result["line"]: result}))
        # Jobs of one length and image lie together, so that they are batches in a worker.
        ordered = sorted(todo, key=lambda job: (job.options.seconds, str(job.options.image), job.line))
        rows = [{"line": job.line, "job": texts[job.line]} for job in ordered]

        def left(some: list[Row]) -> list[Row]:
            done = {result.get("line") for result in results.in_parts()}
            return [row for row in some if row["line"] not in done]

        engine_of(engine).run([stage], COLUMNS, rows, len(rows), on_step, left)
        told |= {result["line"]: result for result in results.in_parts()}
        results.join()
        complete = True
    finally:
        results.close(complete=complete)
    return [told[line] for line in sorted(told)]
