"""What an engine runs: stages, and how one of them ends a run."""

from __future__ import annotations

from typing import Protocol

from .rows import Row
from .settings import Resources


class StopRun(ValueError):
    """What is wrong for every row, such as an endpoint that refuses the key; the run ends, and can be continued."""


class Stage(Protocol):
    """Rows in, rows out. It is pickled to each of its workers, so what is heavy is loaded by the first call."""

    @property
    def name(self) -> str:
        """What messages call it: the settings of that name are its own."""

    @property
    def gpus_setting(self) -> str:
        """The setting or option that `resources.gpus` comes from, for messages."""

    @property
    def resources(self) -> Resources:
        """What each worker takes."""

    def __call__(self, rows: list[Row]) -> list[Row]:
        """The rows that go on, with all columns of rows.

        Args:
            rows: `resources.batch` of them at most; may be changed.

        Raises:
            StopRun: the run cannot go on.
        """
