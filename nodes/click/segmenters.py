"""The segmenters of the click route: the small one that comes with the pack, or the SAM that the page's graph loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from ...sounding.checkpoint import STARTER
from ..host.folders import STARTER_LABEL
from .gate import Busy, QueueGate

if TYPE_CHECKING:
    from ...sounding.segment import Cache, Prompt, Segmentation, Segmenter
    from ..host.loaded import LoadedSegmenter

IDLE = 300.0  # seconds without a click after which a SAM is released


class ClickSegmenters:
    """At most two segmenters: the small one, which stays, and one SAM, which stays while it is used.

    The small one runs on the CPU at any time. A SAM is moved by the host's memory management, which only the thread of
    workflows may use: so it runs, and is released, only while no workflow runs, and gives way to other models.
    """

    def __init__(self, gate: QueueGate):
        """`gate`: keeps this apart from the host's queue."""
        self._gate = gate
        self._small: tuple[Segmenter, Cache] | None = None
        self._sam: tuple[str, LoadedSegmenter] | None = None
        self._used = 0.0

    @contextmanager
    def on(self, name: str, image: Tensor) -> Iterator[Callable[[Prompt], Segmentation]]:
        """A function that makes masks in an image.

        Args:
            name: of the segmenter, as in Sounding Load SAM's list.
            image: the working image, [1, H, W, 3].

        Raises:
            Busy: a SAM, while a workflow runs.
            ValueError: no such segmenter.
        """
        if name == STARTER_LABEL:
            segmenter, cache = self._starter()
            prepared = cache.prepare(segmenter, image)
            yield lambda prompt: segmenter.segment(prepared, prompt)
            return
        sam = self._loaded(name)
        with self._gate.alone():
            yield lambda prompt: sam.segment(image, prompt)
        self._used = time.monotonic()

    def tidy(self) -> float | None:
        """Release a SAM that has not been used for `IDLE` seconds; seconds until the next check, or None."""
        left = self._used + IDLE - time.monotonic()
        if self._sam is not None and left <= 0:
            try:
                with self._gate.alone():
                    self._sam = None
            except Busy:
                return 1.0
        return None if self._sam is None else left

    def _starter(self) -> tuple[Segmenter, Cache]:
        if self._small is None:
            from ...sounding.segment import Cache, load_segmenter

            self._small = load_segmenter(STARTER), Cache()
        return self._small

    def _loaded(self, name: str) -> LoadedSegmenter:
        if self._sam is None or self._sam[0] != name:
            from ..segment import open_segmenter

            with self._gate.alone():
                self._sam = None  # release the old one before the new one is read
            self._sam = name, open_segmenter(name)  # workflows need not wait while the file is read
        self._used = time.monotonic()
        return self._sam[1]
