"""The whole: lists, steps, split, shards, manifest, report. A run that was stopped anywhere is continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sounding.utils.files import write_atomic

from ..cluster.engine import OnProgress, engine_of
from ..cluster.rows import Row
from ..cluster.stage import StopRun
from ..data.folder_lock import only_one
from .funnel import funnel
from .lists import Listed, list_clips
from .manifest import write_manifest
from .ontology import EMPTY, Ontology, read_ontology
from .outcome import Results, columns_on_the_way, parts_of
from .parts import Parts, Worker
from .report import write_report
from .settings import RefineSettings
from .shards import check_shards, write_features, write_raw
from .split import hours, split
from .step import Step
from .steps import steps_of

RATES, PASSED = "rates.json", "passed.json"  # by step: seconds of one worker per clip, and the share that went on


@dataclass(frozen=True)
class Summary:
    """What came of a run."""

    listed: int
    kept: int
    hours: float  # of what is kept
    report: Path


def refine(
    settings: RefineSettings, on_progress: OnProgress | None = None, say: Callable[[str], None] = lambda text: None
) -> Summary:
    """Refine the lists of the settings into `settings.out`.

    Args:
        settings: see there.
        on_progress: clips that came through all steps, of how many that are still open.
        say: one line at each turn.

    Raises:
        ValueError: a list, a model or the output folder is not as expected.
        StopRun: the run cannot go on; the same command continues it.
        OSError: the folder cannot be written.
    """
    out = Path(settings.out)
    ontology = read_ontology(Path(settings.ontology)) if settings.ontology else EMPTY
    steps = steps_of(settings, ontology)
    with only_one(out):
        listed = list_clips(settings)
        say(f"{len(listed.rows) + len(listed.out)} clips listed, {len(listed.rows)} of them go on")
        if not listed.rows and not listed.out:
            raise ValueError("The lists have no clips, but some are expected; check the folders and lists given.")
        parts = parts_of(out, steps)
        for each in parts.values():
            each.compact()
        todo = Results(steps, parts).open_rows(listed.rows)
        if todo:
            say(f"{len(todo)} clips are open")
            workers = [Worker(step, parts[step.name]) for step in steps]
            engine_of(settings.engine).run(workers, columns_on_the_way(steps), todo, on_progress)
        rows = finished(listed, steps, parts)
        write_rates(out, steps, parts, rows)
        place(rows, ontology, settings)
        kept = [row for row in rows if not row["dropped_by"]]
        check_shards(out, kept, settings.shards)
        say(f"{len(kept)} clips ({hours(kept):.2f} h) are kept; writing shards")
        made = write_raw(out, kept, settings.shards)
        lost = {skipped.id: skipped.why for index in made.values() for skipped in index.skipped}
        for row in kept:
            if row["id"] in lost:
                row["dropped_by"], row["reason"], row["subset"] = "shards", lost[row["id"]], ""
        write_manifest(out, rows, steps, settings)
        if settings.shards.model:
            write_features(out, list(made), settings.shards)
        kept = [row for row in rows if not row["dropped_by"]]
        return Summary(len(rows), len(kept), hours(kept), write_report(out, rows, steps, settings))


def finished(listed: Listed, steps: Sequence[Step], parts: dict[str, Parts]) -> list[Row]:
    """All listed clips with all that is known of them, each once.

    Raises:
        StopRun: some are still open.
    """
    results = Results(steps, parts)
    rows = [results.apply(row) for row in listed.rows]
    still_open = [row["id"] for row in rows if results.is_open(row)]
    if still_open:
        raise StopRun(
            f"{len(still_open)} clips were not measured (the first is {still_open[0]}); run the same command again."
        )
    return rows + [{**results.apply({**row, "version": ""}), **row} for row in listed.out]


def place(rows: list[Row], ontology: Ontology, settings: RefineSettings) -> None:
    """Fill in `category` and `subset`."""
    kept = [row for row in rows if not row["dropped_by"]]
    for row in rows:
        row["category"], row["subset"] = "", ""
    for row, (category, subset) in zip(kept, split(kept, ontology, settings.split), strict=True):
        row["category"], row["subset"] = category, subset


def write_rates(out: Path, steps: Sequence[Step], parts: dict[str, Parts], rows: Sequence[Row]) -> None:
    """Keep what each step took and let pass, for the next dry run."""
    rates, passed = read_numbers(out / RATES), read_numbers(out / PASSED)
    for step in steps:
        clips, seconds = parts[step.name].rates()
        if clips:
            rates[step.name] = seconds / clips
    for stage in funnel(rows, steps):
        if stage.clips_in:
            passed[stage.name] = stage.clips_out / stage.clips_in
    write_atomic(out / RATES, json.dumps(rates, indent=1).encode())
    write_atomic(out / PASSED, json.dumps(passed, indent=1).encode())


def read_numbers(file: Path) -> dict[str, float]:
    """Numbers by step of an earlier run; none where there was none."""
    try:
        numbers = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(numbers, dict):
        return {}
    return {str(name): float(number) for name, number in numbers.items() if isinstance(number, (int, float))}
