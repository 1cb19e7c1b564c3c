"""The processes that `torchrun` or `accelerate launch` began for one command, and what they tell each other.

Only small messages pass between them, on the CPU: the work itself is split by number and meets in files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # the others may work on for long when one is done; a launcher ends all if one fails


@dataclass(frozen=True)
class ProcessGroup:
    """Process number `rank` of `size`; `local_rank` counts those of one machine, as its GPUs are counted."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that looks after what all share."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The first process's value, in all of them; each has to call this."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        with _said_plainly():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def total(self, number: int) -> int:
        """The sum of a number over all processes, in each of them; each has to call this."""
        if self.size == 1:
            return number
        from torch import distributed

        numbers = [0] * self.size
        with _said_plainly():
            distributed.all_gather_object(numbers, number)
        return sum(numbers)

    def wait(self) -> None:
        """Until all processes have called this."""
        if self.size > 1:
            from torch import distributed

            with _said_plainly():
                distributed.barrier()


ALONE = ProcessGroup()


@contextmanager
def launched() -> Iterator[ProcessGroup]:
    """The group that this process was launched in, as its environment says; without a launcher, one process alone."""
    rank, size, local_rank = (_number(name, default) for name, default in ENVIRONMENT.items())
    if size == 1:
        yield ALONE
        return
    from torch import distributed

    with _said_plainly():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(rank, size, local_rank)
    finally:
        distributed.destroy_process_group()


ENVIRONMENT = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Lost connections as one sentence: the process that failed has said why."""
    try:
        yield
    except RuntimeError as error:
        raise ChildProcessError(
            f"Another process of this launch has ended ({str(error).splitlines()[0][:200]}); see what it said, and run "
            "the same command again: what is finished is kept."
        ) from None
