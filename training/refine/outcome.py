"""Where each clip stands: which steps it has been through, which one dropped it, and what is still open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..cluster.rows import Column, Row, empty_row
from .parts import Parts
from .rows import IDENTITY, OUTCOME
from .step import Step, columns_of, fingerprints, why_dropped

if TYPE_CHECKING:
    from ..data.storage import Location

DONE = "done"  # column of rows on their way: the steps whose columns they have already


def columns_on_the_way(steps: Sequence[Step]) -> dict[str, Column]:
    """What rows have between steps."""
    return {**IDENTITY, **columns_of(steps), DONE: Column("texts", "")}


def columns_of_manifest(steps: Sequence[Step]) -> dict[str, Column]:
    """What the manifest has of each clip."""
    return {**IDENTITY, **columns_of(steps), **OUTCOME}


def parts_of(out: Location, steps: Sequence[Step]) -> dict[str, Parts]:
    """Where the results of each step are kept, by its name."""
    names = fingerprints(steps)
    return {step.name: Parts(out, step, names[step.name]) for step in steps}


class Results:
    """The results that are kept, and what they make of rows."""

    def __init__(self, steps: Sequence[Step], parts: dict[str, Parts]):
        self.steps = steps
        self.found = {step.name: parts[step.name].read() for step in steps}
        self._empty = empty_row({**columns_of(steps), **OUTCOME})

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with all their results: `done` names the steps, `dropped_by` and `reason` say why a row is out."""
        made = [{**self._empty, **row, DONE: [], "dropped_by": "", "reason": ""} for row in rows]
        going = made
        for step in self.steps:
            following = []
            for row, result in zip(going, self.found[step.name].of(going), strict=True):
                if result is None:
                    continue
                row.update(result)
                row[DONE].append(step.name)
                reason = why_dropped(step, row)
                if reason:
                    row["dropped_by"], row["reason"] = step.name, reason
                else:
                    following.append(row)
            going = following
        return made

    def is_open(self, row: Row) -> bool:
        """Whether a step has still to look at a row that `apply` gave."""
        return not row["dropped_by"] and len(row[DONE]) < len(self.steps)

    def open_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Those on which there is work, with the columns of rows on their way."""
        names = columns_on_the_way(self.steps)
        return [{name: row[name] for name in names} for row in self.apply(rows) if self.is_open(row)]
