"""Images that several jobs share, decoded once as long as memory lasts."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from torch import Tensor


class SharedImages:
    """A cache of decoded images for several threads; those that were used longest ago go first.

    Args:
        decode: reads an image.
        most: bytes that are kept beside those in use.
    """

    def __init__(self, decode: Callable[[Path], Tensor], most: int):
        self._decode, self._most = decode, most
        self._known: OrderedDict[str, Future[Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path) -> Tensor:
        """An image; a second thread that asks for it waits for the first.

        Raises:
            ValueError: it cannot be read.
        """
        key = os.path.abspath(path)
        with self._lock:
            future = self._known.get(key)
            mine = future is None
            if future is None:
                future = self._known[key] = Future()
            self._known.move_to_end(key)
        if mine:
            try:
                future.set_result(self._decode(path))
            except BaseException as error:
                future.set_exception(error)
            with self._lock:
                self._forget()
        return future.result()

    def _forget(self) -> None:
        held = {key: future.result().nbytes for key, future in self._known.items() if _is_there(future)}
        total = sum(held.values())
        for key, size in held.items():
            if total <= self._most:
                break
            del self._known[key]
            total -= size
        while len(self._known) > 10_000:  # those that could not be read have no size
            self._known.popitem(last=False)


def _is_there(future: Future[Tensor]) -> bool:
    return future.done() and future.exception() is None
