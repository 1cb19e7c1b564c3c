"""Results are found by clip and version, however many tables they come in."""

from __future__ import annotations

import random

import pyarrow
import pytest

from training.refine import found as module
from training.refine.found import Found


@pytest.mark.parametrize("piece", [2, 7, 10_000])
def test_results_are_those_that_a_dict_would_give(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    draw = random.Random(piece)
    keys = [(f"clip {draw.randrange(40)}", f"{draw.randrange(3)}") for _ in range(200)]
    reference: dict[tuple[str, str], dict[str, object]] = {}
    tables = []
    while keys:
        some, keys = keys[: (size := draw.randrange(1, 30))], keys[size:]
        rows = [{"id": i, "version": v, "score": len(reference), "tags": [i, v]} for i, v in some]
        for row in rows:
            known = reference.setdefault((str(row["id"]), str(row["version"])), row)
            row["score"] = known["score"]
        tables.append(pyarrow.Table.from_pylist(rows))
    results = Found(tables)
    assert len(results) == len(reference)
    asked = [{"id": f"clip {number}", "version": f"{version}"} for number in range(50) for version in range(4)]
    draw.shuffle(asked)
    for row, result in zip(asked, results.of(asked), strict=True):
        expected = reference.get((row["id"], row["version"]))
        assert result == (expected and {name: expected[name] for name in ("score", "tags")})


def test_without_results_there_are_none() -> None:
    assert len(Found([])) == 0
    assert Found([]).of([{"id": "a", "version": "1"}]) == [None]
