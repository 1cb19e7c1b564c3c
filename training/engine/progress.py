"""Where a person sees how far a run is: one line that moves on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

log = logging.getLogger("training")


class ProgressLine:
    """A run's progress; nothing is shown before it is entered.

    Args:
        name: what the lines begin with.
        steps: of the whole run.
        console: where a line would move; without it standard output.
    """

    def __init__(self, name: str, steps: int, console: Console | None = None):
        self.name, self.steps, self._console = name, steps, console
        self._bar: Progress | None = None
        self._closing = ExitStack()

    def __enter__(self) -> ProgressLine:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = self._console or Console()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description} {task.completed}/{task.total}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[figures]}  {task.fields[left]} left", markup=False),
            )
            bar = Progress(*columns, console=console, refresh_per_second=2)
            self._task = bar.add_task(self.name, total=self.steps, figures="", left="?")
            self._bar = self._closing.enter_context(bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, figures: str, seconds_left: float) -> None:
        """The figures of a log."""
        left = _duration(seconds_left)
        if self._bar is not None:
            self._bar.update(self._task, figures=figures, left=left)
        else:
            log.info("%s %d/%d  %s  %s left", self.name, step, self.steps, figures, left)

    def say(self, step: int, text: str) -> None:
        """A line of its own."""
        line = f"{self.name} {step}/{self.steps}  {text}"
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            log.info("%s", line)


def _duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
