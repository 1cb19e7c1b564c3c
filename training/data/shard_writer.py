"""Making a folder of shards from a source of samples: in parallel, restartable, the same bytes every time.

Sample number `i` of a source goes to shard `i // shard_size`, and each shard is made whole by one process and
renamed into place, so that neither the number of processes nor an interruption shows in the result. What is known
of a finished shard is kept in a small file beside it until `shards.json` takes all of it up. One run at a time
works in a folder, which is locked; sources are told apart by their settings, not by a look into every file they read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from sounding.utils.files import remove_abandoned, write_atomic
from sounding.utils.messages import printable

from .folder_lock import only_one
from .shard_format import INDEX, Kind, Sample, ShardIndex, Skipped, read_json, reason
from .single_shard import Work, make_shard, read_record, shard_name

log = logging.getLogger("training")
PLAN = "unfinished.json"  # the settings of a folder that has no index yet
OnProgress = Callable[[int, int], None]  # samples done with (skipped ones too), samples skipped


class Source(ABC):
    """Where samples come from, by number. Sources are pickled into processes, so they load heavy data late."""

    kind: Kind = "raw"
    model: str | None = None
    former: str | None = None  # what an earlier version called the same model

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides the bytes of the result, as JSON; an existing folder is only added to if it is equal."""

    @abstractmethod
    def name(self, position: int) -> str:
        """The id of a sample, made or not."""

    @abstractmethod
    def make(self, position: int) -> Sample:
        """One sample.

        Raises:
            Exception: it cannot be made; it is skipped and listed with this reason.
        """

    def left_out(self) -> list[Skipped]:
        """Files and rows that belong to no sample, and why; listed beside samples that cannot be made."""
        return []

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        """Samples `first` to `last - 1` in order; sources that work on several at once have their own."""
        for position in range(first, last):
            try:
                yield self.make(position)
            except Exception as error:  # decoders raise almost every kind for broken files
                log.debug("%s is skipped", self.name(position), exc_info=True)
                yield Skipped(printable(self.name(position)), reason(error))


def digest(values: Iterable[Any]) -> str:
    """SHA-256 of JSON values in order: names a list of inputs in a source's settings."""
    total = hashlib.sha256()
    for value in values:
        total.update(json.dumps(value).encode() + b"\n")
    return total.hexdigest()


def make_shards(
    source: Source,
    out: Path,
    *,
    shard_size: int = 1000,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> ShardIndex:
    """Make the shards of `source` in `out`, or those that are not there yet.

    Args:
        source: of the samples.
        out: folder; a finished one of equal settings is only read.
        shard_size: samples of the source a shard (a skipped one leaves its shard smaller).
        workers: processes, each making whole shards; 0 works in this one.
        on_progress: `on_progress(done, skipped)`, a few times a second.

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
    if (index := _finished(source, out, settings)) is not None:  # its folder may be read-only by now
        return index
    with only_one(out):
        return _make(source, out, settings, shard_size, workers, on_progress)


def _make(
    source: Source, out: Path, settings: dict[str, Any], shard_size: int, workers: int, on_progress: OnProgress | None
) -> ShardIndex:
    if (index := _finished(source, out, settings)) is not None:
        return index
    if (out / PLAN).is_file():
        plan = _read_plan(out)
        _same_settings(out, plan, {**settings, "model": _model(source, plan.get("model"))})
    else:
        write_atomic(out / PLAN, json.dumps({**settings, "model": source.model}).encode())
    _remove_leftovers(out)
    numbers = range(-(-len(source) // shard_size))
    finished = [record for record in (read_record(out, number) for number in numbers) if record is not None]
    done = [sum(r.shard.samples + len(r.skipped) for r in finished), sum(len(r.skipped) for r in finished)]
    there = {record.shard.name for record in finished}
    todo = [number for number in numbers if shard_name(number) not in there]

    def report(samples: int, skipped: int) -> None:
        if on_progress is not None:
            on_progress(done[0] + samples, done[1] + skipped)

    report(0, 0)
    if todo and workers == 0:
        _make_here(source, out, shard_size, todo, report)
    elif todo:
        _make_in_processes(source, out, shard_size, todo, workers, report)
    return _finish(source, out, settings, numbers)


def _finished(source: Source, out: Path, settings: dict[str, Any]) -> ShardIndex | None:
    """The index of a folder that is finished, None of any other."""
    if not (out / INDEX).is_file():
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


def _make_here(source: Source, out: Path, shard_size: int, todo: list[int], report: Callable[[int, int], None]) -> None:
    counts = [0, 0]

    def count(skipped: bool) -> None:
        counts[0] += 1
        counts[1] += skipped
        report(counts[0], counts[1])

    work = Work(source, out, shard_size, count, lambda: False)
    for number in todo:
        make_shard(work, number)


def _make_in_processes(
    source: Source, out: Path, shard_size: int, todo: list[int], workers: int, report: Callable[[int, int], None]
) -> None:
    # Started afresh, not forked: a fork would copy the locks of whatever threads this process runs.
    context = multiprocessing.get_context("spawn")
    counts, stop = context.Array("q", 2), context.Event()
    processes = min(workers, len(todo))
    # Not among `initargs`: those are written to a process that begins, for ever if it has died before reading them.
    # Pickled here: the queue would do it behind our back, once a process, and not say what cannot be.
    sources, pickled = context.Queue(), pickle.dumps(source)
    sources.cancel_join_thread()
    for _ in range(processes):
        sources.put(pickled)
    pool = ProcessPoolExecutor(
        processes,
        mp_context=context,
        initializer=_start_process,
        initargs=(sources, out, shard_size, counts, stop),
    )
    try:
        waiting = {pool.submit(_make_shard_there, number) for number in todo}
        while waiting:
            ready, waiting = wait(waiting, timeout=0.2, return_when="FIRST_COMPLETED")
            report(*counts[:])
            for future in ready:
                future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "A process that makes shards died, from too little memory, a file that crashes its decoder, or in a script "
            'whose work is not below `if __name__ == "__main__":`; use fewer --workers, or --workers 0 to see which '
            "sample it is; finished shards are kept."
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        _remove_leftovers(out)


_work: Work | None = None  # of this process, where it is one of several


def _start_process(sources: Any, out: Path, shard_size: int, counts: Any, stop: Any) -> None:
    global _work
    import torch

    torch.set_num_threads(1)  # processes of many threads each spend most of their time waiting for one another
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process; the first one tells the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def count(skipped: bool) -> None:
        with counts.get_lock():
            counts[0] += 1
            counts[1] += skipped

    _work = Work(pickle.loads(sources.get()), out, shard_size, count, stop.is_set)


def _end_with_parent() -> None:
    """A first process that is killed must not leave others waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_shard_there(number: int) -> None:
    assert _work is not None
    make_shard(_work, number)


def _finish(source: Source, out: Path, settings: dict[str, Any], numbers: range) -> ShardIndex:
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


def _check_count(out: Path, index: ShardIndex, asked: int) -> None:
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
        size = file.stat().st_size if file.is_file() else 0
        if size != shard.bytes:
            raise ValueError(
                f"{file} has {size} bytes, but {shard.bytes} are expected; copy it again, or remove that folder and "
                "prepare it again."
            )


def _read_plan(out: Path) -> dict[str, Any]:
    try:
        plan = read_json(out / PLAN)
        if not isinstance(plan, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{out / PLAN} cannot be read ({error}); remove that folder to begin anew.") from None
    return plan


def _same_settings(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{out} was made with {key} {old.get(key)!r}, but {new.get(key)!r} came; give another --out (several "
                "folders combine in data.shards of a recipe), or remove that folder to begin anew."
            )


def _remove_leftovers(out: Path) -> None:
    """Temporary files of processes that were killed, as this version and earlier ones name them."""
    remove_abandoned(out)
    for file in out.glob(".shard-*"):
        file.unlink(missing_ok=True)


def _remove_notes(out: Path) -> None:
    """What is only needed until there is an index."""
    for file in (*out.glob("shard-*.json"), out / PLAN):
        file.unlink(missing_ok=True)
