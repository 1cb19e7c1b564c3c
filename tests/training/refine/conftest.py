"""The material, once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from .material import write_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refine") / "material"
    write_material(folder)
    return folder
