"""Rows: what goes from stage to stage, texts and numbers, with a schema that all blocks of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
Kind = Literal["text", "texts", "number", "numbers", "count"]


@dataclass(frozen=True)
class Column:
    """One column: its type, and what it has."""

    kind: Kind
    what: str


def empty_row(columns: Iterable[str]) -> Row:
    """A row without values."""
    return dict.fromkeys(columns)


def schema_of(columns: dict[str, Column]) -> pyarrow.Schema:
    """The columns as Arrow has them."""
    import pyarrow

    kinds = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "number": pyarrow.float64(),
        "numbers": pyarrow.list_(pyarrow.float64()),
        "count": pyarrow.int64(),
    }
    return pyarrow.schema([(name, kinds[column.kind]) for name, column in columns.items()])


def to_table(rows: list[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    """Rows as one Arrow table of that schema; values that a row lacks are null."""
    import pyarrow

    return pyarrow.Table.from_pydict({name: [row.get(name) for row in rows] for name in schema.names}, schema)
