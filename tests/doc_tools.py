"""The scripts of docs/tools, which are in no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parent.parent / "docs"


def load_tool(name: str) -> ModuleType:
    """The script `docs/tools/NAME.py` as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", DOCS / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
