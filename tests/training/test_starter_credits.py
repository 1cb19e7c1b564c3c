"""docs/starter-data.md says what the starter's tables list."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starter_data_tool", DOCS / "tools" / "starter_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
