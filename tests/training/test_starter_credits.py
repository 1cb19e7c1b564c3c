"""docs/starter-data.md says what the starter's tables list."""

from __future__ import annotations

from types import ModuleType

import pytest

from ..doc_tools import DOCS, load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("starter_data")


def test_the_page_is_the_tables(tool: ModuleType) -> None:
    page = (DOCS / "starter-data.md").read_text(encoding="utf-8")
    assert tool.with_tables(page) == page, "run python docs/tools/starter_data.py"
    for kind in tool.KINDS:
        assert f"| {kind.name} | " in page
    assert len(page.encode()) < 40_000


def test_credits_are_of_what_is_taken(tool: ModuleType) -> None:
    credits = tool.CREDITS
    assert set(credits["sounds"]) <= set(tool.SOURCES.packages)
    assert set(credits["images"]) <= set(tool.TABLE["packages"])


def test_counts_are_of_the_tables(tool: ModuleType) -> None:
    """Each recording and each image that a set lists is in one row of the tables of packages."""
    for block, counted in ((tool.sounds, tool.SOURCES.recordings), (tool.pictures, tool.PICTURES)):
        cells = [cell for line in block().splitlines()[2:] for cell in line.split(" | ")]
        numbers = [
            part for cell in cells if cell.replace(" + ", "").isdigit() for part in cell.split(" + ")[:2] if "+" in cell
        ]
        assert sum(map(int, numbers)) == len(counted)
