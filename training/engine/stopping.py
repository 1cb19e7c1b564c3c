"""What ends a run early: a loss that is not finite, and SIGTERM, which cluster schedulers send before they kill."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .states import States

STATUS = 128 + signal.SIGTERM  # a shell's exit status for a process that SIGTERM ended


class Stopped(SystemExit):
    """SIGTERM ended a training, whose state is kept; the same command goes on."""

    def __init__(self) -> None:
        super().__init__(STATUS)


class Termination:
    """Notices SIGTERM while it is entered; a second one ends the process at once, as it would without this.

    One of several processes does not end so: a scheduler sends the signal to all of a job, and their launcher, which is
    one of them, sends it on to the others, and ends those by SIGKILL that take too long. Several processes stop behind
    the same step, whichever of them the signal reaches: what each has noticed is summed with the step's figures
    (`mark`), and read one step later, so that no step waits for the device (`asked`).
    """

    def __init__(self, accelerator: Accelerator):
        self._alone = accelerator.num_processes == 1
        self._noticed = False
        self._before: Any = None
        self._pending: Tensor | None = None
        self._now: Tensor | None = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
        if self._alone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def mark(self, like: Tensor) -> Tensor:
        """1 where this process noticed the signal, to be summed (or averaged) over processes; else 0."""
        return torch.full_like(like, float(self._noticed), dtype=torch.float32)

    def observe(self, marks: Tensor) -> None:
        """The sum of all processes' marks, of the step that is done."""
        self._pending, self._now = self._now, marks

    def asked(self) -> bool:
        """Whether to stop behind this step."""
        if self._alone:
            return self._noticed
        return self._pending is not None and bool(self._pending > 0)


class FiniteCheck:
    """Stops at a loss or gradient that is not finite. Looks one step late, so that no step waits for the device."""

    def __init__(self, states: States):
        self.states = states
        self.pending: tuple[int, Tensor, list[str]] | None = None

    def __call__(self, step: int, value: Tensor, ids: list[str]) -> None:
        """Look at the step before, and remember this one.

        Raises:
            FloatingPointError: naming the step, its items and the last good state.
        """
        self.now()
        self.pending = (step, value, ids)

    def now(self) -> None:
        """Look at what is pending."""
        if self.pending is None:
            return
        (step, value, ids), self.pending = self.pending, None
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"Loss or gradient is not finite at step {step}, with the items {', '.join(ids)}. "
                f"{self.states.describe_last()} Lower loop.lr, or look at those items."
            )
