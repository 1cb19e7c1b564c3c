"""What the click route segments with: the small segmenter in the box, or the SAM that the page's graph loads."""

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

IDLE = 300.0  # seconds without a click, after which a SAM is let go


class ClickSegmenters:
    """At most two segmenters: the small one, kept, and one SAM, kept while it is clicked with.

    The small one works on the CPU at any time. A SAM is moved by the host's memory management, which belongs to the
    workflow that runs; so it works, comes and goes only while none does, and is moved away when another node needs the
    room.
    """

    def __init__(self, gate: QueueGate):
        """`gate`: between us and the host's queue."""
        self._gate = gate
        self._small: tuple[Segmenter, Cache] | None = None
        self._sam: tuple[str, LoadedSegmenter] | None = None
        self._used = 0.0

    @contextmanager
    def on(self, name: str, picture: Tensor) -> Iterator[Callable[[Prompt], Segmentation]]:
        """What makes masks in a picture [1, H, W, 3].

        Args:
            name: what Sounding Load SAM's list calls the segmenter.
            picture: the working picture.

        Raises:
            Busy: a SAM, while a workflow runs.
            ValueError: no such segmenter.
        """
        if name == STARTER_LABEL:
            segmenter, cache = self._starter()
            prepared = cache.prepare(segmenter, picture)
            yield lambda prompt: segmenter.segment(prepared, prompt)
            return
        sam = self._loaded(name)
        with self._gate.alone():
            yield lambda prompt: sam.segment(picture, prompt)
        self._used = time.monotonic()

    def tidy(self) -> float | None:
        """Let go of a SAM that was not used for long; seconds until this is to be looked at again, or None."""
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
                self._sam = None  # the old one goes before the new one comes
            self._sam = name, open_segmenter(name)  # a workflow need not wait for the file
        self._used = time.monotonic()
        return self._sam[1]
