"""TensorBoard's files beside a run, which are never worth the run's end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("training")


class Board:
    """A `SummaryWriter` that a full disk, or a folder that cannot be written, leaves silent after one warning.

    Args:
        folder: of the event files.
        step: what earlier event files say of it and later steps is hidden; they are not rewritten.
    """

    def __init__(self, folder: Path, step: int):
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._hook = threading.excepthook
        threading.excepthook = self._heed
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step)
        except OSError as error:
            self._give_up(error)

    def write(self, work: Callable[[SummaryWriter], object]) -> None:
        """Let `work` write; what its thread failed to write before comes out here, too."""
        if self._writer is None:
            return
        try:
            work(self._writer)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        self.write(lambda writer: writer.close())
        self._writer = None
        threading.excepthook = self._hook

    def _give_up(self, error: OSError) -> None:
        log.warning("%s cannot be written (%s), so the run goes on without TensorBoard.", self.folder, error.strerror)
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):  # the same again
                writer.close()

    def _heed(self, failed: threading.ExceptHookArgs) -> None:
        """What ends the writer's own thread comes out of the next `write`; its traceback would look like a crash."""
        if not (type(failed.thread).__module__.startswith("tensorboard.") and isinstance(failed.exc_value, OSError)):
            self._hook(failed)
