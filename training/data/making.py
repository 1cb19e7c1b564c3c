"""Making a folder of shards from a source of samples: in parallel, restartable, the same bytes every time.

Sample number `i` of a source goes to shard `i // shard_size`, and each shard is made whole by one process and
renamed into place, so that neither the number of processes nor an interruption shows in the result. What is known
of a finished shard is kept in a small file beside it until `shards.json` takes all of it up. One run at a time
may work in a folder; sources are told apart by their settings, not by a look into every file they read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sounding.config import from_dict
from sounding.files import replacing, write_atomic

from .shard_format import INDEX, Kind, Sample, Shard, ShardIndex, Skipped

PLAN = "unfinished.json"  # the settings of a folder that has no index yet
OnProgress = Callable[[int, int], None]  # samples done with (skipped ones too), samples skipped


class Source(ABC):
    """Where samples come from, by number. Sources are pickled into processes, so they load heavy data late."""

    kind: Kind = "raw"
    model: str | None = None

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
            ValueError, OSError: it cannot be made; it is skipped and listed with this reason.
        """

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        """Samples `first` to `last - 1` in order; sources that work on several at once have their own."""
        for position in range(first, last):
            try:
                yield self.make(position)
            except (ValueError, OSError) as error:
                yield Skipped(self.name(position), reason(error))


def reason(error: Exception) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def digest(values: Iterable[Any]) -> str:
    """SHA-256 of JSON values in order: names a list of inputs in a source's settings."""
    total = hashlib.sha256()
    for value in values:
        total.update(json.dumps(value).encode() + b"\n")
    return total.hexdigest()


@dataclass(frozen=True)
class _Record:
    """What is known of a finished shard."""

    shard: Shard
    skipped: tuple[Skipped, ...]
    licences: dict[str, int]


@dataclass
class _Work:
    """What a process needs to make any shard."""

    source: Source
    out: Path
    shard_size: int
    count: Callable[[bool], None]  # called once a sample, with True where it was skipped
    stopped: Callable[[], bool]


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
    if (out / INDEX).is_file():
        index = ShardIndex.read(out)
        _same_settings(out, {**index.settings, "model": index.model}, {**settings, "model": source.model})
        _remove_notes(out)
        return index
    if (out / PLAN).is_file():
        plan = json.loads((out / PLAN).read_text(encoding="utf-8"))
        _same_settings(out, plan, {**settings, "model": source.model})
    else:
        write_atomic(out / PLAN, json.dumps({**settings, "model": source.model}).encode())
    _remove_leftovers(out)
    numbers = range(-(-len(source) // shard_size))
    finished = [record for record in (_read_record(out, number) for number in numbers) if record is not None]
    done = [sum(r.shard.samples + len(r.skipped) for r in finished), sum(len(r.skipped) for r in finished)]
    there = {record.shard.name for record in finished}
    todo = [number for number in numbers if _shard_name(number) not in there]

    def report(samples: int, skipped: int) -> None:
        if on_progress is not None:
            on_progress(done[0] + samples, done[1] + skipped)

    report(0, 0)
    if todo and workers == 0:
        _make_here(source, out, shard_size, todo, report)
    elif todo:
        _make_in_processes(source, out, shard_size, todo, workers, report)
    return _finish(source, out, settings, numbers)


def _make_here(source: Source, out: Path, shard_size: int, todo: list[int], report: Callable[[int, int], None]) -> None:
    counts = [0, 0]

    def count(skipped: bool) -> None:
        counts[0] += 1
        counts[1] += skipped
        report(counts[0], counts[1])

    work = _Work(source, out, shard_size, count, lambda: False)
    for number in todo:
        _make_shard(work, number)


def _make_in_processes(
    source: Source, out: Path, shard_size: int, todo: list[int], workers: int, report: Callable[[int, int], None]
) -> None:
    # Started afresh, not forked: a fork would copy the locks of whatever threads this process runs.
    context = multiprocessing.get_context("spawn")
    counts, stop = context.Array("q", 2), context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(todo)),
        mp_context=context,
        initializer=_start_process,
        initargs=(source, out, shard_size, counts, stop),
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
            "A process that makes shards died, from too little memory or a file that crashes its decoder; use fewer "
            "--workers, or --workers 0 to see which sample it is; finished shards are kept."
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        _remove_leftovers(out)


_work: _Work | None = None  # of this process, where it is one of several


def _start_process(source: Source, out: Path, shard_size: int, counts: Any, stop: Any) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process; the first one tells the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def count(skipped: bool) -> None:
        with counts.get_lock():
            counts[0] += 1
            counts[1] += skipped

    _work = _Work(source, out, shard_size, count, stop.is_set)


def _end_with_parent() -> None:
    """A first process that is killed must not leave others waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_shard_there(number: int) -> None:
    assert _work is not None
    _make_shard(_work, number)


def _make_shard(work: _Work, number: int) -> None:
    """Write shard `number` and its record."""
    from webdataset import TarWriter

    first = number * work.shard_size
    last = min(first + work.shard_size, len(work.source))
    path = work.out / _shard_name(number)
    offsets, skipped, licences = [], [], dict[str, int]()
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            with TarWriter(file, user="", group="", mtime=0, compress=False, encoder=False) as tar:
                for position, item in enumerate(work.source.samples(first, last), first):
                    if work.stopped():
                        raise InterruptedError("stopped")
                    files, item = _encoded(item)
                    if isinstance(item, Skipped):
                        skipped.append(item)
                    else:
                        offsets.append(tar.tarstream.offset)
                        tar.write({"__key__": f"{position:09d}", **files})
                        licences[item.licence] = licences.get(item.licence, 0) + 1
                    work.count(isinstance(item, Skipped))
                offsets.append(tar.tarstream.offset)
            size = file.tell()
        if len(offsets) == 1:
            path.unlink()
        shard = Shard(path.name, len(offsets) - 1, size, tuple(offsets))
        record = _Record(shard, tuple(skipped), licences)
        write_atomic(path.with_suffix(".json"), json.dumps(dataclasses.asdict(record)).encode())
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}); free some space or mend the folder, then run the "
            "same command again: finished shards are kept."
        ) from None


def _encoded(item: Sample | Skipped) -> tuple[dict[str, bytes], Sample | Skipped]:
    """The files of a sample, or why there are none."""
    if isinstance(item, Skipped):
        return {}, item
    try:
        return item.members(), item
    except (ValueError, OSError) as error:  # such as a picture longer than a JPEG can be
        return {}, Skipped(item.id, reason(error))


def _finish(source: Source, out: Path, settings: dict[str, Any], numbers: range) -> ShardIndex:
    """Gather the records into the index."""
    records = [record for record in (_read_record(out, number) for number in numbers) if record is not None]
    skipped = tuple(skip for record in records for skip in record.skipped)
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
    )
    index.write(out)
    _remove_notes(out)
    return index


def _same_settings(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{out} was made with {key} {old.get(key)!r}, but {new.get(key)!r} came; give another --out, or remove "
                "that folder to begin anew."
            )


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _read_record(out: Path, number: int) -> _Record | None:
    """The record of a finished shard; None if it has to be made (again)."""
    path = out / _shard_name(number)
    try:
        record: _Record = from_dict(_Record, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        whole = record.shard.samples == 0 or path.stat().st_size == record.shard.bytes
    except (OSError, ValueError, TypeError):
        return None
    return record if whole else None


def _remove_leftovers(out: Path) -> None:
    """Temporary files of processes that were killed."""
    for file in out.glob(".shard-*"):
        file.unlink(missing_ok=True)


def _remove_notes(out: Path) -> None:
    """What is only needed until there is an index."""
    for file in (*out.glob("shard-*.json"), out / PLAN):
        file.unlink(missing_ok=True)
