"""`sounding generate --jobs`: many sounds by one command, one line of JSON per result."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import MAX_BATCH, check_device, check_file, check_folder, check_precision
from .terminal import progress, say, show_json

if TYPE_CHECKING:
    from ..jobs.job import Fault, Job
    from ..utils.process_group import ProcessGroup

SOME_FAILED = 3  # exit status
STOPPED = 130


def generate_jobs(
    source: Path,
    *,
    model: str,
    device: str,
    precision: str,
    defaults: Mapping[str, Any],
    folder: Path | None,
    results: Path | None,
    at_once: int | None,
) -> None:
    """Do the jobs of a file, or this process's share of them, and exit with a status that tells whether some failed.

    Args:
        source: the jobs file, or "-" for standard input.
        model: "starter" or the path of a checkpoint.
        device: as `--device`.
        precision: as `--precision`.
        defaults: of keys that lines leave out.
        folder: in which all sounds are written.
        results: the file of results.
        at_once: sounds that are sampled together at most.

    Raises:
        ValueError: something is wrong with all jobs.
        OSError: results cannot be written.
        typer.Exit: some jobs failed, or the run was stopped.
    """
    check_device(device)
    check_precision(precision)
    if at_once is not None and not 1 <= at_once <= MAX_BATCH:
        raise ValueError(f"--at-once is {at_once}, but 1 to {MAX_BATCH} sounds are expected; give another number.")
    if folder is not None:
        check_folder(folder, "--out-dir")
    results = results_file(source, folder, results)

    from ..jobs.job import read_jobs, setting_of
    from ..utils.process_group import launched

    with launched() as group:
        if group.size > 1 and not source.is_file():
            raise ValueError(f"{source} is read by each of {group.size} processes; give a file instead of a pipe.")
        device = device_of_process(device, group)
        jobs = read_jobs(source, setting_of(model, defaults, folder))
        failed = group.total(_do(jobs, model, (device, precision), results, at_once, group))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _do(
    jobs: list[Job | Fault],
    model: str,
    where: tuple[str, str],
    results: Path,
    at_once: int | None,
    group: ProcessGroup,
) -> int:
    """This process's share; how many of it failed."""
    from ..jobs.planning import shares
    from ..jobs.results import DONE, FAILED, KEPT, Results

    began, counts = time.monotonic(), Counter[str]()
    written = Results(results, "" if group.is_first else str(group.rank))
    complete = False
    written.open()
    try:
        mine = shares(jobs, group.rank, group.size)
        with progress("jobs", quiet=not (sys.stderr.isatty() and group.is_first)) as on_step:

            def report(result: dict[str, Any]) -> None:
                counts[result["status"]] += 1
                show_json(shown_result(result))
                if on_step is not None:
                    on_step(counts.total(), len(mine))

            _sound(mine, model, where, written, at_once, report)
        complete = True
        if not group.is_first:
            written.close(complete=True)
        group.wait()
        if group.is_first:
            written.join()
    except KeyboardInterrupt:
        done = counts[DONE] + counts[KEPT]
        say(f"sounding: stopped; {done} of {len(mine)} jobs are done, and the same command goes on.")
        raise typer.Exit(STOPPED) from None
    finally:
        written.close(complete=complete)
    seconds = time.monotonic() - began
    say(
        f"sounding: {counts[DONE]} of {len(mine)} jobs done in {seconds:.1f} s, {counts[KEPT]} were done before, "
        f"{counts[FAILED]} failed; results are in {results}."
    )
    return counts[FAILED]


def _sound(
    mine: list[Job | Fault], model: str, where: tuple[str, str], results: Any, at_once: int | None, report: Any
) -> None:
    """Do what is left of the jobs, on a device and in a precision; without any, the model is not read."""
    from ..jobs.run import left_to_do, run_jobs

    todo = left_to_do(mine, results, report)
    if todo:
        from ..checkpoint import read_header, resolve
        from ..jobs.inputs import parts_for
        from ..model import load

        config = read_header(resolve(model)).config
        parts = {part for job in todo for part in parts_for(config, job.options)}
        device, precision = where
        run_jobs(load(model, device=device, dtype=precision, parts=parts), todo, results, report, at_once=at_once)


def shown_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result as it is printed: without what only the next run needs."""
    return {key: value for key, value in result.items() if key != "sha256"}


def results_file(source: Path, folder: Path | None, given: Path | None) -> Path:
    """Where results are appended: as given, or in the folder of sounds, or beside the jobs file.

    Raises:
        ValueError: there is no place for them, or it is the jobs file.
    """
    piped = str(source) == "-" or (source.exists() and not source.is_file())
    if given is None and piped and folder is None:
        raise ValueError(f"{source} is no file that results could lie beside; give --results or --out-dir.")
    if given is None:
        name = "jobs" if piped else source.stem
        given = (source.parent if folder is None else folder) / f"{name}.results.jsonl"
    check_file(given, "--results")
    if given.exists() and source.exists() and given.samefile(source):
        raise ValueError(f"--results {given} is the file of jobs; give another name.")
    return given


def device_of_process(device: str, group: ProcessGroup) -> str:
    """Each process of a machine takes a GPU of its own, where there are some.

    Raises:
        ValueError: there are fewer.
    """
    import torch

    if group.size == 1 or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    if group.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"Process {group.local_rank + 1} of this machine has no GPU of its own, since there are "
            f"{torch.cuda.device_count()}; launch as many processes as GPUs, or give --device cpu."
        )
    return f"cuda:{group.local_rank}"
