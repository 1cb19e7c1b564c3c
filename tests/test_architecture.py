"""docs/architecture.md says what the code builds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from sounding.config import SoundingConfig
from sounding.model import SoundingModel

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_the_code() -> None:
    spec = importlib.util.spec_from_file_location("architecture", DOCS / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert architecture.with_tables(page) == page, "run python docs/architecture.py"
    with torch.device("meta"):
        model = SoundingModel(SoundingConfig())
    for part in architecture.BLOCKS:  # each block's line and the rest add up to the part
        lines = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| {part} | `")]
        listed = sum(int(line[-1].rstrip(" |").replace(",", "")) for line in lines)
        assert listed == sum(weight.numel() for weight in getattr(model, part).parameters())
