"""Fixtures of all fuzzed areas."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Number of inputs per area."""
    return int(request.config.getoption("--fuzz-rounds"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that an area may write to."""
    path = tmp_path / "area"
    path.mkdir()
    return path
