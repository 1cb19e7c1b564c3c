"""The script for figures of a GPU runs on a CPU with tiny networks, and goes on where a row fails or does not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from benchmarks import gpu, many
from benchmarks.gpu_rows import Row, Setting, all_rows
from benchmarks.growth import object_ratios

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_all_rows_print_figures_of_the_tiny_model(tmp_path: Path) -> None:
    env = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--device", "cpu", "--tiny"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    text = (tmp_path / "results.md").read_text()
    assert ended.returncode == 0, text
    sections = dict(section.split("\n", 1) for section in text.split("\n## ")[1:])
    assert list(sections) == [row.name for row in all_rows(Setting("cpu", True, tmp_path))]
    figures = {
        "Full size against diffusers, bf16": "| whole, seconds |",
        "Full size against diffusers, fp16": "| whole, seconds |",
        "First calls": "| bf16 |",
        "Roofline": "GFLOP",
        "VAE and vocoder": "| float16, torch.compile (trial) |",
        "Objects of one image": "Images encoded per generation: 1\n",
        "Memory": "| vocode |",
        "Many sounds": "`--jobs` / sum of parts: ",
        "Training step": "| seconds per step |",
        "Training step, compiled, plain loop in bf16": "| seconds per step |",
        "Fine-tuning": "Fine-tuned in ",
    }
    assert {name for name, figure in figures.items() if figure not in sections[name]} == set()


def test_rows_that_fail_are_named_and_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        print("begun")
        raise RuntimeError("no such device")

    rows = [Row("one", fail, 9), Row("two", lambda: print("| a figure |"), 9)]
    monkeypatch.setattr(gpu, "all_rows", lambda setting: rows)
    with pytest.raises(typer.Exit) as ended:
        gpu.main(device="cpu", tiny=False, out=tmp_path, only="")
    text = (tmp_path / "results.md").read_text()
    assert ended.value.exit_code == 1
    assert text.index("begun") < text.index("RuntimeError: no such device") < text.index("## two")
    assert text.index("## two") < text.index("| a figure |")


def test_a_row_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    results = tmp_path / "results.md"
    failure = gpu.run_row(Row("endless", signal.pause, 9), results, 0.1)
    assert failure.startswith("FAILED: not done")
    assert failure in results.read_text()


def test_time_in_which_several_kernels_run_counts_once() -> None:
    assert many.covered([(20, 30), (0, 10), (5, 12), (6, 7)]) == 22


def test_objects_are_compared_with_one() -> None:
    text = object_ratios([(1, 2.0, 1.0, 0.0), (4, 6.0, 3.6, 0.0)])
    assert "take 3.00 times as long as 1, 0.75 times as long per object" in text
    assert "processor seconds 3.60 and 0.90" in text
