"""Rows as Arrow tables: they come back as they were, and blocks of the largest ones stay small."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest

from training.cluster import row_store
from training.cluster.engine import BLOCK_BYTES
from training.cluster.row_store import RowStore
from training.cluster.rows import Column, Row, schema_of, to_table
from training.cluster.settings import EngineSettings

COLUMNS = {kind: Column(kind, "") for kind in ("text", "texts", "number", "numbers", "count")}


def made_up(count: int) -> list[Row]:
    draw = random.Random(0)
    values: dict[str, list[Any]] = {
        "text": ["a", "ü" * 300, "", None],
        "texts": [[], ["x", "y z"], None],
        "number": [0.1, -1e300, None],
        "numbers": [[], [0.1, 0.2], None],
        "count": [0, 2**40, None],
    }
    return [{name: draw.choice(some) for name, some in values.items()} for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_rows_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(row_store, "PIECE", 3)
    rows = made_up(count)
    store = RowStore(COLUMNS, rows)
    assert len(store) == count
    assert list(store) == rows == list(store)
    assert [row for piece in store.pieces() for row in piece] == rows
    assert [store[position] for position in range(count)] == rows
    assert list(pickle.loads(pickle.dumps(store))) == rows
    with pytest.raises(IndexError, match=f"there are {count}"):
        store[count]


def test_a_row_that_was_given_out_is_a_copy_and_more_can_be_appended() -> None:
    store = RowStore(COLUMNS, made_up(2))
    store[0]["text"] = "changed"
    store.append({"text": "third", "unknown": 1})
    assert [row["text"] for row in store] == [*(row["text"] for row in made_up(2)), "third"]
    assert store[2] == {"text": "third", "texts": None, "number": None, "numbers": None, "count": None}


def test_a_block_of_the_largest_rows_is_small() -> None:
    """Texts of steps have 300 characters at most, and there is one per second of a clip."""
    columns = {f"{kind}{number}": COLUMNS[kind] for kind in COLUMNS for number in range(8)}
    texts, longest = ["x" * 300] * 10, {"text": "x" * 300, "texts": ["x" * 300] * 10, "number": 0.5, "count": 1}
    row = {name: {**longest, "numbers": [0.5] * len(texts)}[column.kind] for name, column in columns.items()}
    block = to_table([row] * EngineSettings().block, schema_of(columns))
    assert block.nbytes < BLOCK_BYTES
