"""Mutual exclusion of the host's queue and models that are used outside it.

The host's memory management expects a single thread, the worker that takes workflows from the queue. Independent of
host and torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Queue(Protocol):
    """What is used here of the host's `PromptQueue`."""

    get: Any

    def get_tasks_remaining(self) -> int:
        """Workflows that run or wait."""
        ...


class Busy(Exception):
    """A workflow runs, or is about to."""


class QueueGate:
    """Either the worker runs, from one `queue.get` to the next, or the code inside `alone` does: never both.

    Checking whether a workflow runs is not enough, since one may start right after the check. So the worker is counted
    as it leaves `queue.get`, with something to run or to tidy up, and has to wait there while `alone` is taken. `alone`
    itself never waits, so there is no deadlock.
    """

    def __init__(self, queue: Queue):
        """Watch `queue`, before its worker starts."""
        self._queue = queue
        self._turn = threading.Condition()
        self._working = 0  # workers that are not waiting in `queue.get`
        self._alone = False
        self._counted = threading.local()
        take = queue.get

        def get(*args: Any, **options: Any) -> Any:
            self._leave()
            taken = take(*args, **options)
            self._enter()
            return taken

        queue.get = get

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No workflow starts inside this context; one that is queued meanwhile waits for its end.

        Raises:
            Busy: a workflow runs or waits already, or another thread is in here.
        """
        waiting = self._queue.get_tasks_remaining()
        with self._turn:
            if waiting or self._working or self._alone:
                raise Busy
            self._alone = True
        try:
            yield
        finally:
            with self._turn:
                self._alone = False
                self._turn.notify_all()

    def _enter(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._working += 1
        self._counted.here = True

    def _leave(self) -> None:
        if getattr(self._counted, "here", False):
            self._counted.here = False
            with self._turn:
                self._working -= 1
