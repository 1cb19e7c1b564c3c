"""The results of one step, looked up by clip: Arrow tables and an index over them, since two million dicts are 4 GB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..cluster.row_store import PIECE
from ..cluster.rows import Row

if TYPE_CHECKING:
    import pyarrow

DIGEST = 16  # bytes; two of 2^64 clips would share one


class Found:
    """Results by clip and version. Those that are there twice are all the same, and the first counts."""

    def __init__(self, tables: Iterable[pyarrow.Table]):
        """Take up results.

        Args:
            tables: with the columns `id` and `version`, and those of the results.
        """
        self._tables: list[pyarrow.Table] = []
        digests: list[np.ndarray] = []
        for table in _of_one_size(tables):
            digests.append(_digests(table["id"].to_pylist(), table["version"].to_pylist()))
            self._tables.append(table.drop_columns(["id", "version"]))
        starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
        self._starts = starts[:-1]
        everything = np.concatenate(digests) if digests else np.empty(0, f"S{DIGEST}")
        self._order = np.argsort(everything, kind="stable")
        self._digests = everything[self._order]

    def __len__(self) -> int:
        return len(self._digests) and 1 + int(np.count_nonzero(self._digests[1:] != self._digests[:-1]))

    def of(self, rows: Sequence[Row]) -> list[Row | None]:
        """The results of rows with `id` and `version`, None for those that have none."""
        found: list[Row | None] = [None] * len(rows)
        if not len(self._digests) or not rows:
            return found
        wanted = _digests([row["id"] for row in rows], [row["version"] for row in rows])
        at = np.minimum(np.searchsorted(self._digests, wanted), len(self._digests) - 1)
        hits = np.flatnonzero(self._digests[at] == wanted)
        places = self._order[at[hits]]
        tables = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(tables):
            here = tables == number
            taken = self._tables[number].take(places[here] - self._starts[number]).to_pylist()
            for position, result in zip(hits[here], taken, strict=True):
                found[position] = result
        return found


def _of_one_size(tables: Iterable[pyarrow.Table]) -> Iterable[pyarrow.Table]:
    """The same rows in tables of `PIECE` rows: a batch's own table costs more than its rows."""
    import pyarrow

    waiting: list[pyarrow.Table] = []
    count = 0
    for table in tables:
        for start in range(0, table.num_rows, PIECE):
            waiting.append(table.slice(start, PIECE))
            count += waiting[-1].num_rows
            if count >= PIECE:
                yield pyarrow.concat_tables(waiting).combine_chunks()
                waiting, count = [], 0
    if waiting:
        yield pyarrow.concat_tables(waiting).combine_chunks()


def _digests(ids: Sequence[str], versions: Sequence[str]) -> np.ndarray:
    """[rows] of bytes, one digest each."""
    told = zip(ids, versions, strict=True)
    return np.array([hashlib.blake2b(f"{i} {v}".encode(), digest_size=DIGEST).digest() for i, v in told], f"S{DIGEST}")
