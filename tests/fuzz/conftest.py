"""What the areas share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Inputs per area."""
    return int(request.config.getoption("--fuzz-rounds"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an area may write."""
    path = tmp_path / "area"
    path.mkdir()
    return path
