"""Threads that wait for each other without taking the processor from others that need it.

torch splits each operation among its threads, which meet at a barrier after it. GNU's OpenMP runtime, which torch's
builds for Linux bring, lets a thread that waits there spin for milliseconds. On a quiet machine that is fastest. Beside
another busy program the spinning threads keep those that they wait for from running: twenty times as long has been
seen. Fewer threads would be no way out: some operations are summed in another order then, and the same seed would
give other samples.

So the number of threads stays, and only the spinning changes, while it is needed: the runtime spins a hundred turns
instead of 300,000 wherever a process has more OpenMP threads than processors (GOMP_SPINCOUNT in its manual). A pool of
threads that sleep is enough for that. It goes when the call ends. Whether it is needed shows in the processor time:
threads that spin and get less than a processor each are kept from it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # where a person has chosen, nothing is changed
LOOK_SECONDS = 0.05  # between two looks at the processor time
STARVED = 0.85  # share of the processors for its threads below which a process is kept from them
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 16.0  # until spinning is tried again: at first, and at most
TRIAL_LOOKS = 2  # that such a trial takes, the first of which still shows threads that slept

MOST_THREADS = 65  # of a pool

StartPool = Callable[[], None]
Method = TypeVar("Method", bound=Callable[..., Any])


@contextmanager
def adaptive_spinning(device: torch.device | str) -> Iterator[None]:
    """Let torch's threads sleep instead of spin while other programs need the processor; the results are the same.

    Only on a CPU, with more than one thread, and where torch uses GNU's OpenMP runtime; otherwise nothing happens. May
    be nested and used in several threads at once.

    Args:
        device: where the work is done.
    """
    if torch.device(device).type != "cpu" or torch.get_num_threads() < 2:
        yield
        return
    start_pool = pool_starter()
    if start_pool is None:
        yield
        return
    _WATCH.enter(start_pool, torch.get_num_threads())
    try:
        yield
    finally:
        _WATCH.leave()


def spins_adaptively(method: Method) -> Method:
    """For methods of what has its weights in `module`, see `adaptive_spinning`."""

    @wraps(method)
    def inner(self: Any, *args: Any, **settings: Any) -> Any:
        weight = next(self.module.parameters(), None)
        with adaptive_spinning("cpu" if weight is None else weight.device):
            return method(self, *args, **settings)

    return inner  # type: ignore[return-value]


class _Watch:
    """One thread that looks at the processor time while any call is in progress, and one more that holds the pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy_until = 0.0  # what was found is taken to hold on in the next call

    def enter(self, start_pool: StartPool, threads: int) -> None:
        """A call begins."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._end = threading.Event()
                self._thread = threading.Thread(
                    target=self._look, args=(start_pool, threads, self._end), name="sounding-threads", daemon=True
                )
                self._thread.start()

    def leave(self) -> None:
        """A call ends; with the last one everything is as it was."""
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None:
                return
            self._end.set()
            self._thread.join()
            self._thread = None

    def _look(self, start_pool: StartPool, threads: int, end: threading.Event) -> None:
        pool = _Pool(start_pool)
        retry, looks = RETRY_SECONDS, 0
        sleep_until = self._busy_until if self._busy_until > time.monotonic() else 0.0
        if sleep_until:
            pool.open()
        try:
            wall, processor = time.monotonic(), time.process_time()
            while not end.wait(LOOK_SECONDS):
                now, used = time.monotonic(), time.process_time()
                share = (used - processor) / (threads * (now - wall))
                wall, processor, looks = now, used, looks + 1
                if pool.is_open:
                    if now >= sleep_until:
                        pool.close()
                        looks = 0
                elif share < STARVED and (sleep_until == 0 or looks >= TRIAL_LOOKS):
                    pool.open()
                    retry = min(2 * retry, LONGEST_RETRY_SECONDS) if sleep_until else RETRY_SECONDS
                    sleep_until = self._busy_until = now + retry
                elif looks > TRIAL_LOOKS:
                    sleep_until = self._busy_until = 0.0
        finally:
            pool.close()


class _Pool:
    """More OpenMP threads than processors, all asleep."""

    def __init__(self, start: StartPool):
        self._start = start
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is one."""
        return self._thread is not None

    def open(self) -> None:
        """Make it; each thread of Python's has an OpenMP pool of its own, which goes with it."""
        ready = threading.Event()
        self._end = threading.Event()

        def hold() -> None:
            self._start()
            ready.set()
            self._end.wait()

        self._thread = threading.Thread(target=hold, name="sounding-pool", daemon=True)
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """Let it go."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None


def _after_fork() -> None:
    global _WATCH
    _WATCH = _Watch()  # its threads are the parent's


_WATCH = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def room_for_threads() -> int:
    """How many threads may be made without a worry; the runtime ends a process that cannot have one more."""
    try:
        most, there = (Path("/sys/fs/cgroup", f"pids.{name}").read_text().strip() for name in ("max", "current"))
        return MOST_THREADS if most == "max" else min(MOST_THREADS, (int(most) - int(there)) // 2)
    except (OSError, ValueError):
        return MOST_THREADS


@lru_cache(maxsize=1)
def pool_starter() -> StartPool | None:
    """What makes the calling thread an OpenMP pool of more threads than there are processors.

    None where torch's OpenMP runtime is another than GNU's, somebody has chosen how it waits, or there is no room.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in CHOICES):
        return None
    try:
        # Symbols are looked for in what torch itself is linked to; a process may have other runtimes beside it.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = library.GOMP_parallel
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # in C, and of NULL it does nothing
    except (OSError, AttributeError):
        return None
    if hasattr(library, "kmp_set_blocktime"):  # Intel's and LLVM's have GNU's entry points too, but yield by themselves
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    threads = len(os.sched_getaffinity(0)) + 1
    if threads > room_for_threads():
        return None

    def start() -> None:
        parallel(nothing, None, threads, 0)

    return start
