"""What passes from thread to thread: results in their order, and items that another thread makes ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from .results import Result, Results

UNREPORTED = 128  # results that may wait to be written
OnResult = Callable[[Result], None]
T = TypeVar("T")


class Reporter:
    """Appends results and tells of them, one after the other, in the order in which they were added."""

    def __init__(self, results: Results, on_result: OnResult):
        self._results, self._on_result = results, on_result
        self._queue: queue.Queue[Future[Result] | None] = queue.Queue(UNREPORTED)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._report, name="sounding-reporter", daemon=True)
        self._thread.start()

    def add(self, result: Future[Result]) -> None:
        """One more; waits where too many do.

        Raises:
            BaseException: why earlier ones could not be reported.
        """
        self.check()
        self._queue.put(result)

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Report all that were added."""
        self._queue.put(None)
        self._thread.join()

    def _report(self) -> None:
        while (future := self._queue.get()) is not None:
            try:
                result = future.result()
                self._results.append(result)  # also after somebody stopped reading our output: the file is there
                if self._error is None:
                    self._on_result(result)
            except BaseException as error:
                self._error = self._error or error


def in_thread(made: Iterator[T], stop: threading.Event) -> Iterator[T]:
    """What an iterator gives, one item ahead, made by a thread of its own until `stop` is set."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(1)

    def put(item: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in made:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    threading.Thread(target=make, name="sounding-grounder", daemon=True).start()
    while True:
        there, item = ready.get()
        if not there:
            if item is not None:
                raise item
            return
        yield item
