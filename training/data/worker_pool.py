"""Shards made by several processes of one machine, each making whole ones."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from .shard_file import ShardJob, write_shard
from .source import Source

if TYPE_CHECKING:
    from .storage import Location


def write_in_processes(
    source: Source, out: Location, shard_size: int, todo: list[int], workers: int, report: Callable[[int, int], None]
) -> None:
    """Write the shards of the numbers `todo` by up to `workers` processes.

    Args:
        source: of the samples; pickled into each process.
        out: folder.
        shard_size: samples per shard.
        todo: numbers of shards.
        workers: processes.
        report: `report(done, skipped)` of samples, a few times per second.

    Raises:
        ChildProcessError: a process died.
        OSError: a shard cannot be written.
    """
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
        waiting = {pool.submit(_write_shard_there, number) for number in todo}
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


_job: ShardJob | None = None  # of this process, where it is one of several


def _start_process(sources: Any, out: Location, shard_size: int, counts: Any, stop: Any) -> None:
    global _job
    import torch

    torch.set_num_threads(1)  # processes of many threads each spend most of their time waiting for one another
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process; the first one tells the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def count(skipped: bool) -> None:
        with counts.get_lock():
            counts[0] += 1
            counts[1] += skipped

    _job = ShardJob(pickle.loads(sources.get()), out, shard_size, count, stop.is_set)


def _end_with_parent() -> None:
    """A first process that is killed must not leave others waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard_there(number: int) -> None:
    assert _job is not None
    write_shard(_job, number)
