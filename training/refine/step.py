"""Steps: what one is, and how it is applied to rows so that one broken clip never ends a run over many.

A step has two halves. `measure` computes columns, which may take a model and minutes; its results are kept
(`parts.py`), by the clip and by `Step.fingerprint`. `verdict` decides by columns and settings alone whether a clip goes
on; it is cheap, and never kept: another threshold costs no second look at the videos. Steps know no engine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from ..cluster.process import failure_of_device
from ..cluster.rows import Column, Row
from ..cluster.settings import Resources
from ..cluster.stage import StopRun
from ..data.shard_format import reason

log = logging.getLogger("training")


class Step(ABC):
    """One step. It is pickled to its workers, so `open` loads what is heavy."""

    name: str
    columns: ClassVar[dict[str, Column]]  # that `measure` gives
    needs: tuple[str, ...] = ()  # earlier steps whose columns `measure` reads
    takes_memory: ClassVar[str] = ""  # the setting that decides how much of the GPU's memory a model takes

    def __init__(self, resources: Resources):
        self.resources = resources

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides what `measure` gives, as JSON; models by their digest."""

    @abstractmethod
    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """The step's columns, one result per row.

        Raises:
            Exception: of some row; the rows are tried again one by one, and the reason is kept with the row that it
                is of.
            StopRun: of all rows.
        """

    def verdict(self, row: Row) -> str:
        """Why a clip with the step's columns is dropped, or "" where it goes on."""
        return ""

    def open(self) -> None:  # noqa: B027, most steps without a model need none
        """Load what `measure` needs; called once in each worker."""

    def model(self) -> str:
        """What the dry run says of the models in use; "" for a step without one."""
        return ""

    def missing(self) -> str:
        """What is missing for the step to do what the paper does, and what stands in for it; "" where nothing is."""
        return ""

    def fingerprint(self, earlier: dict[str, str]) -> str:
        """Names the results of `measure`.

        Args:
            earlier: fingerprints of the steps before, by name.
        """
        told = [self.name, self.settings(), [earlier[name] for name in self.needs if name in earlier]]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """Of all steps, by name."""
    found: dict[str, str] = {}
    for step in steps:
        found[step.name] = step.fingerprint(found)
    return found


def error_column(step: Step) -> str:
    """Where a row has the reason for which a step could not measure it."""
    return f"{step.name}_error"


def columns_of(steps: Sequence[Step]) -> dict[str, Column]:
    """All columns that steps add to a row."""
    found: dict[str, Column] = {}
    for step in steps:
        found |= step.columns
        found[error_column(step)] = Column("text", f"why {step.name} could not measure the clip, or empty")
    return found


def opened(step: Step) -> None:
    """`step.open`, without which no row can be measured.

    Raises:
        StopRun: a model's file is missing or of another kind, or the model does not fit into memory.
    """
    try:
        step.open()
    except (OSError, ValueError) as error:
        raise StopRun(str(error)) from error
    except RuntimeError as error:
        failure = failure_of_device(error, step.name, step.takes_memory)
        if failure is None:
            raise
        raise failure from error


def measured(step: Step, rows: Sequence[Row]) -> list[Row]:
    """`step.measure`, with a reason in the error's column for each row that cannot be measured.

    Raises:
        StopRun: what is wrong is wrong for every row.
        MemoryError: likewise.
    """
    try:
        found = step.measure(rows)
        if len(found) != len(rows):
            raise RuntimeError(f"{step.name} gave {len(found)} results for {len(rows)} clips.")
        return [{**result, error_column(step): ""} for result in found]
    except (StopRun, MemoryError):
        raise
    except Exception as error:  # decoders raise almost every kind for broken files
        failure = failure_of_device(error, step.name, step.takes_memory)
        if failure is not None:
            raise failure from error
        if len(rows) > 1:
            return [result for row in rows for result in measured(step, [row])]
        log.debug("%s: %s", step.name, rows[0]["id"], exc_info=True)
        return [{error_column(step): reason(error)}]


def timed(step: Step, rows: Sequence[Row]) -> tuple[list[Row], float]:
    """`measured`, and the seconds that it took per row."""
    began = time.monotonic()
    found = measured(step, rows)
    return found, (time.monotonic() - began) / max(1, len(rows))


def why_dropped(step: Step, row: Row) -> str:
    """Why a row that the step has measured does not go on, or ""."""
    return row.get(error_column(step)) or step.verdict(row)
