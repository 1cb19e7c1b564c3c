"""docs/architecture.md says what the code builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sounding.config import SoundingConfig
from sounding.model import SoundingModel

from ..doc_tools import DOCS, load_tool

ROOT = Path(__file__).parents[2]


def test_the_page_is_the_code() -> None:
    architecture = load_tool("architecture")
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert architecture.with_tables(page) == page, "run python docs/tools/architecture.py"
    with torch.device("meta"):
        model = SoundingModel(SoundingConfig())
    for part in architecture.BLOCKS:  # each block's line and the rest add up to the part
        lines = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| {part} | `")]
        listed = sum(int(line[-1].rstrip(" |").replace(",", "")) for line in lines)
        assert listed == sum(weight.numel() for weight in getattr(model, part).parameters())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_full_size_goes_through_everything(tmp_path: Path) -> None:
    """Saved, loaded, a training step, a sound: some 40 seconds of one core, and 6 GB in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.true_size",
        "--seconds",
        "0.64",
        "--steps",
        "1",
        "--folder",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = [line.split(" | ")[-1].rstrip(" |") for line in ran.stdout.splitlines() if line.startswith("| ")][2:]
    assert results[0] == "506.4 M parameters"
    assert results[1] == "1.01 GB, grounding patches query unet vae vocoder"
    moved = results[3].split("; ")[1].split()
    assert moved[0] == moved[2] != "0", "a part of grounding and U-Net does not learn"
    assert moved[4] == "(182.6"
    assert results[5] == "[1, 1, 10240], finite"
    assert list(tmp_path.iterdir()) == []
