"""The whole: lists, steps, split, shards, manifest, report. A run that was stopped anywhere is continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cluster.engine import OnProgress, engine_of
from ..cluster.row_store import RowStore
from ..cluster.rows import Row
from ..cluster.stage import StopRun
from ..data.folder_lock import only_one
from ..data.storage import location, read_bytes, write_atomic
from .funnel import Stage as FunnelStage
from .funnel import funnel
from .lists import Listed, list_clips
from .manifest import ManifestRows, write_manifest
from .ontology import EMPTY, Ontology, read_ontology
from .outcome import Results, columns_of_manifest, columns_on_the_way, parts_of
from .parts import Parts, Worker
from .report import write_report
from .rows import IDENTITY, seconds_of
from .settings import RefineSettings
from .shards import check_shards, write_features, write_raw
from .split import hours, split
from .step import Step
from .steps import steps_of

if TYPE_CHECKING:
    from ..data.storage import Location

# What splitting and the shards need of kept clips; everything else is read again, a piece at a time.
OF_KEPT = {*IDENTITY, "sound_seconds", "caption", "category", "subset"}
RATES, PASSED = "rates.json", "passed.json"  # by step: seconds of one worker per clip, and the share that went on


@dataclass(frozen=True)
class Summary:
    """What came of a run."""

    listed: int
    kept: int
    hours: float  # of what is kept
    report: Location
    stages: list[FunnelStage]


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
    out = location(settings.out)
    ontology = read_ontology(location(settings.ontology)) if settings.ontology else EMPTY
    steps = steps_of(settings, ontology)
    with only_one(out):
        listed = list_clips(settings)
        more = f"; {listed.twice} more have the id of an earlier one" if listed.twice else ""
        say(f"{len(listed.rows) + len(listed.out)} clips listed, {len(listed.rows)} of them go on{more}")
        if not listed.rows and not listed.out:
            raise ValueError("The lists have no clips, but some are expected; check the folders and lists given.")
        parts = parts_of(out, steps)
        measure(settings, listed.rows, steps, parts, on_progress, say)
        results = Results(steps, parts)
        kept = RowStore({name: column for name, column in columns_of_manifest(steps).items() if name in OF_KEPT})
        stages = funnel(_storing(kept, finished(listed, results)), steps)
        write_rates(out, steps, parts, stages)
        kept = placed(kept, ontology, settings)
        check_shards(out, kept, settings.shards)
        say(f"{len(kept)} clips ({hours(kept):.2f} h) are kept; writing shards")
        made = write_raw(out, kept, settings.shards)
        lost = {skipped.id: skipped.why for index in made.values() for skipped in index.skipped}
        write_manifest(out, _whole(finished(listed, results), kept, lost), steps, settings)
        if settings.shards.model:
            write_features(out, list(made), settings.shards, settings.engine)
        left = [seconds_of(row) for row in kept if row["id"] not in lost]
        rows = ManifestRows(out)
        page = write_report(out, rows, steps, settings)
        return Summary(len(rows), len(left), sum(left) / 3600, page, funnel(rows, steps))


def measure(
    settings: RefineSettings,
    rows: RowStore,
    steps: Sequence[Step],
    parts: dict[str, Parts],
    on_progress: OnProgress | None,
    say: Callable[[str], None],
) -> None:
    """Take what is open through the steps; all results are in `parts` afterwards.

    Raises:
        StopRun: the run cannot go on; what is measured is kept.
    """
    for each in parts.values():
        each.compact()
    results = Results(steps, parts)
    count = sum(len(results.open_rows(piece)) for piece in rows.pieces())
    if not count:
        return
    say(f"{count} clips are open")
    engine_of(settings.engine).run(
        [Worker(step, parts[step.name]) for step in steps],
        columns_on_the_way(steps),
        (row for piece in rows.pieces() for row in results.open_rows(piece)),
        count,
        on_progress,
        lambda some: Results(steps, parts).open_rows(some),
    )
    for each in parts.values():
        each.compact()


def finished(listed: Listed, results: Results) -> Iterator[Row]:
    """All listed clips with all that is known of them, each once: those that go on from the lists come first.

    Raises:
        StopRun: some are still open.
    """
    still_open, first = 0, ""
    for piece in listed.rows.pieces():
        for row in results.apply(piece):
            if results.is_open(row):
                still_open += 1
                first = first or row["id"]
            yield row
    if still_open:
        raise StopRun(f"{still_open} clips were not measured (the first is {first}); run the same command again.")
    for piece in listed.out.pieces():
        for row, applied in zip(piece, results.apply([{**row, "version": ""} for row in piece]), strict=True):
            yield {**applied, **row}


def _storing(store: RowStore, rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows; those that are kept are stored on the way."""
    for row in rows:
        if not row["dropped_by"]:
            store.append({**row, "category": "", "subset": ""})
        yield row


def placed(kept: RowStore, ontology: Ontology, settings: RefineSettings) -> RowStore:
    """Kept rows with `category` and `subset`."""
    made = RowStore(kept.columns)
    for row, (category, subset) in zip(kept, split(kept, ontology, settings.split), strict=True):
        made.append({**row, "category": category, "subset": subset})
    return made


def _whole(rows: Iterable[Row], kept: Iterable[Row], lost: dict[str, str]) -> Iterator[Row]:
    """Rows as the manifest has them: with what became of the kept ones, which come in the same order."""
    following = iter(kept)
    for row in rows:
        row["category"], row["subset"] = "", ""
        if not row["dropped_by"]:
            its = next(following)
            row["category"], row["subset"] = its["category"], its["subset"]
            if row["id"] in lost:
                row["dropped_by"], row["reason"], row["subset"] = "shards", lost[row["id"]], ""
        yield row


def write_rates(out: Location, steps: Sequence[Step], parts: dict[str, Parts], stages: Iterable[FunnelStage]) -> None:
    """Keep what each step took and let pass, for the next dry run."""
    rates, passed = read_numbers(out / RATES), read_numbers(out / PASSED)
    for step in steps:
        clips, seconds = parts[step.name].rates()
        if clips:
            rates[step.name] = seconds / clips
    for stage in stages:
        if stage.clips_in:
            passed[stage.name] = stage.clips_out / stage.clips_in
    write_atomic(out / RATES, json.dumps(rates, indent=1).encode())
    write_atomic(out / PASSED, json.dumps(passed, indent=1).encode())


def read_numbers(file: Location) -> dict[str, float]:
    """Numbers by step of an earlier run; none where there was none."""
    try:
        numbers = json.loads(read_bytes(file))
    except (OSError, ValueError):
        return {}
    if not isinstance(numbers, dict):
        return {}
    return {str(name): float(number) for name, number in numbers.items() if isinstance(number, (int, float))}
