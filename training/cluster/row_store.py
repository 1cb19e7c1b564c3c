"""Many rows in little memory: Arrow tables, of which rows are made again a piece at a time."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from .rows import Column, Row, schema_of, to_table

if TYPE_CHECKING:
    import pyarrow

PIECE = 4_000  # rows of one table, which become dicts together


class RowStore(Collection[Row]):
    """Rows in the order in which they were appended. A row of texts is 2 KB as a dict, and some hundred bytes here.

    What is given out are copies: a change of them does not change what is stored.
    """

    def __init__(self, columns: dict[str, Column], rows: Iterable[Row] = ()):
        self.columns = columns
        self._tables: list[pyarrow.Table] = []
        self._starts: list[int] = []  # position of each table's first row
        self._new: list[Row] = []
        self._sealed = 0
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row; what it has beyond the columns is left out."""
        self._new.append(row)
        if len(self._new) >= PIECE:
            self._seal()

    def pieces(self) -> Iterator[list[Row]]:
        """All rows, some thousand at a time."""
        self._seal()
        for table in self._tables:
            yield table.to_pylist()

    def __len__(self) -> int:
        return self._sealed + len(self._new)

    def __iter__(self) -> Iterator[Row]:
        for piece in self.pieces():
            yield from piece

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)

    def __getitem__(self, position: int) -> Row:
        if not 0 <= position < len(self):
            raise IndexError(f"Row {position} came, but there are {len(self)}.")
        self._seal()
        number = bisect(self._starts, position) - 1
        row: Row = self._tables[number].slice(position - self._starts[number], 1).to_pylist()[0]
        return row

    def _seal(self) -> None:
        if self._new:
            self._tables.append(to_table(self._new, schema_of(self.columns)))
            self._starts.append(self._sealed)
            self._sealed += len(self._new)
            self._new = []
