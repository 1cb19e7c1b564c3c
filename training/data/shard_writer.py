"""Making a folder of shards from a source of samples: in parallel, restartable, the same bytes every time.

Sample number `i` of a source goes to shard `i // shard_size`, and each shard is made whole by one process and
renamed into place, so that neither the number of processes nor an interruption shows in the result. What is known
of a finished shard is kept in a small file beside it until `shards.json` takes all of it up. One run at a time
works in a folder, which is locked; sources are told apart by their settings, not by a look into every file they read.

Libraries' writers do less: webdataset's and MosaicML streaming's write shards one after the other in one process (the
latter's in parallel only into folders that are merged later) and begin anew after an interruption. Each tar itself is
written by webdataset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sounding.utils.files import remove_abandoned
from sounding.utils.messages import printable
from sounding.utils.process_group import ALONE, ProcessGroup

from .folder_lock import only_one
from .shard_file import ShardJob, read_record, shard_name, write_shard
from .shard_format import INDEX, ShardIndex, Skipped, read_json
from .source import Source
from .storage import files_below, is_file, remove, request, write_atomic
from .worker_pool import write_in_processes

if TYPE_CHECKING:
    from .storage import Location

PLAN = "unfinished.json"  # the settings of a folder that has no index yet
LOOK = 2.0  # seconds between looks at what other processes have finished
OnProgress = Callable[[int, int], None]  # samples done with (skipped ones too), samples skipped
# Writes the shards of these numbers somewhere else, each with its record, and calls back now and then.
Elsewhere = Callable[[list[int], Callable[[], None]], None]


def make_shards(
    source: Source,
    out: Location,
    *,
    shard_size: int = 1000,
    workers: int = 0,
    on_progress: OnProgress | None = None,
    group: ProcessGroup = ALONE,
    elsewhere: Elsewhere | None = None,
) -> ShardIndex:
    """Make the shards of `source` in `out`, or those that are not there yet.

    Args:
        source: of the samples.
        out: folder; a finished one of equal settings is only read.
        shard_size: samples of the source per shard (a skipped one leaves its shard smaller).
        workers: processes that this one starts, each making whole shards; with 0 it works itself.
        on_progress: `on_progress(done, skipped)`, a few times per second; only the first process of a group calls it.
        group: processes that call this together: process `r` of `n` makes the shards whose number is `r` modulo `n`,
            and the first one keeps the folder and writes the index.
        elsewhere: writes the shards in place of this process and its workers, such as `shard_stage.ByEngine`.

    Raises:
        ValueError: bad numbers, a folder of other settings, or a source none of whose samples could be made.
        OSError: the folder cannot be written (a full disk); finished shards stay, and the same call goes on.
        ChildProcessError: a process died.
    """
    if shard_size < 1 or workers < 0:
        raise ValueError(f"shard size {shard_size} and {workers} workers came, but 1 or more and 0 or more are needed.")
    if len(source) == 0:
        raise ValueError("There is nothing to prepare: the source has no samples; check the folder or list given.")
    settings = json.loads(json.dumps({**source.settings(), "shard_size": shard_size}))
    if not group.is_first:
        _write_share(source, out, shard_size, workers, group.share([]), group, lambda done, skipped: None)
        group.wait()  # for all shards
        group.wait()  # for the index
        return ShardIndex.read(out)
    index = _finished(source, out, settings)  # its folder may be read-only by now
    if index is None:
        with only_one(out):
            index = _finished(source, out, settings)
            if index is None:
                return _make(source, out, settings, shard_size, workers, on_progress, group, elsewhere)
    group.share([])
    group.wait()
    group.wait()
    return index


def _make(
    source: Source,
    out: Location,
    settings: dict[str, Any],
    shard_size: int,
    workers: int,
    on_progress: OnProgress | None,
    group: ProcessGroup,
    elsewhere: Elsewhere | None,
) -> ShardIndex:
    """What the first process does in an unfinished folder that it has locked."""
    if is_file(out / PLAN):
        plan = _read_plan(out)
        _same_settings(out, plan, {**settings, "model": _model(source, plan.get("model"))})
    else:
        write_atomic(out / PLAN, json.dumps({**settings, "model": source.model}).encode())
    _remove_leftovers(out)
    numbers = range(-(-len(source) // shard_size))
    finished = [record for record in (read_record(out, number) for number in numbers) if record is not None]
    there = {record.shard.name for record in finished}
    todo = [number for number in numbers if shard_name(number) not in there]
    others = _Others(out, [number for number in todo if elsewhere or number % group.size != group.rank])

    def report(samples: int, skipped: int) -> None:
        if on_progress is not None:
            done = [record.counts for record in finished] + others.counts() + [(samples, skipped)]
            on_progress(*(sum(column) for column in zip(*done, strict=True)))

    report(0, 0)
    try:
        if elsewhere is None:
            _write_share(source, out, shard_size, workers, group.share(todo), group, report)
        elif todo:
            elsewhere(todo, lambda: report(0, 0))
            others.counts(now=True)
            report(0, 0)
        group.wait()
    finally:
        _remove_leftovers(out)
    index = _finish(source, out, settings, numbers)
    group.wait()
    return index


class _Others:
    """How far the other processes of a group are, by the shards that they have finished."""

    def __init__(self, out: Location, todo: list[int]):
        self._out, self._todo, self._counts, self._next = out, todo, list[tuple[int, int]](), 0.0

    def counts(self, now: bool = False) -> list[tuple[int, int]]:
        """Samples done and skipped, per shard; the folder is looked at every few seconds, or now."""
        if self._todo and (now or time.monotonic() > self._next):
            records = [(number, read_record(self._out, number)) for number in self._todo]
            self._counts += [record.counts for _, record in records if record is not None]
            self._todo = [number for number, record in records if record is None]
            self._next = time.monotonic() + LOOK
        return self._counts


def _write_share(
    source: Source,
    out: Location,
    shard_size: int,
    workers: int,
    todo: list[int],
    group: ProcessGroup,
    report: Callable[[int, int], None],
) -> None:
    """Write those of the shards `todo` that are this process's."""
    mine = [number for number in todo if number % group.size == group.rank]
    if mine and workers:
        write_in_processes(source, out, shard_size, mine, workers, report)
        return
    counts = [0, 0]

    def count(skipped: bool) -> None:
        counts[0] += 1
        counts[1] += skipped
        report(counts[0], counts[1])

    job = ShardJob(source, out, shard_size, count, lambda: False)
    for number in mine:
        write_shard(job, number)


def _finished(source: Source, out: Location, settings: dict[str, Any]) -> ShardIndex | None:
    """The index of a folder that is finished, None of any other."""
    if not is_file(out / INDEX):
        return None
    index = ShardIndex.read(out)
    _same_settings(out, {**index.settings, "model": index.model}, {**settings, "model": _model(source, index.model)})
    _check_count(out, index, len(source))
    with suppress(PermissionError):
        _remove_notes(out)
    return index


def _model(source: Source, made: str | None) -> str | None:
    """The source's model, by the name that `made` has for it."""
    return made if made is not None and made == source.former else source.model


def _finish(source: Source, out: Location, settings: dict[str, Any], numbers: range) -> ShardIndex:
    """Gather the records into the index."""
    records = [record for record in (read_record(out, number) for number in numbers) if record is not None]
    skipped = tuple(skip for record in records for skip in record.skipped)
    if len(records) < len(numbers):
        raise OSError(
            f"{len(numbers) - len(records)} of {len(numbers)} shards in {out} went missing while it was prepared; run "
            "the same command again, and let nothing else change that folder."
        )
    if len(skipped) == len(source):
        _remove_notes(out)
        raise ValueError(
            f"None of {len(source)} samples could be made, the first ({skipped[0].id}) because: {skipped[0].why}"
        )
    licences: dict[str, int] = {}
    for record in records:
        for licence, samples in record.licences.items():
            licences[licence] = licences.get(licence, 0) + samples
    index = ShardIndex(
        kind=source.kind,
        shards=tuple(record.shard for record in records if record.shard.samples),
        samples=sum(record.shard.samples for record in records),
        skipped=skipped,
        licences=dict(sorted(licences.items())),
        settings=settings,
        model=source.model,
        left_out=tuple(Skipped(printable(left.id), printable(left.why)) for left in source.left_out()),
        bare=None if any(r.bare is None for r in records) else tuple(i for r in records for i in r.bare or ()),
        masked=None if any(r.masked is None for r in records) else sum(r.masked or 0 for r in records),
    )
    _check_count(out, index, len(source))
    index.write(out)
    _remove_notes(out)
    return index


def _check_count(out: Location, index: ShardIndex, asked: int) -> None:
    """Whether every sample that was asked for is there or named as skipped.

    Raises:
        ValueError: some are neither.
    """
    if index.samples + len(index.skipped) != asked:
        raise ValueError(
            f"{out} has {index.samples} samples and names {len(index.skipped)} as skipped, but {asked} were asked for; "
            "remove that folder and prepare it again."
        )
    for shard in index.shards:
        file = out / shard.name
        size = request(file, file.stat).st_size if is_file(file) else 0
        if size != shard.bytes:
            raise ValueError(
                f"{file} has {size} bytes, but {shard.bytes} are expected; copy it again, or remove that folder and "
                "prepare it again."
            )


def _read_plan(out: Location) -> dict[str, Any]:
    try:
        plan = read_json(out / PLAN)
        if not isinstance(plan, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{out / PLAN} cannot be read ({error}); remove that folder to begin anew.") from None
    return plan


def _same_settings(out: Location, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{out} was made with {key} {old.get(key)!r}, but {new.get(key)!r} came; give another --out (several "
                "folders combine in data.shards of a recipe), or remove that folder to begin anew."
            )


def _remove_leftovers(out: Location) -> None:
    """Temporary files of processes that were killed, as this version and earlier ones name them."""
    if isinstance(out, Path):  # object storage has none
        remove_abandoned(out)
        remove(list(out.glob(".shard-*")))


def _remove_notes(out: Location) -> None:
    """What is only needed until there is an index."""
    notes = [file for file in files_below(out, [".json"]) if file.name.startswith("shard-")]
    remove([*notes, out / PLAN])
