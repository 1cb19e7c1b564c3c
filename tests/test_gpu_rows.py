"""The script that prints all figures of a GPU runs on a CPU with tiny networks, and a row that fails ends no run."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from benchmarks import gpu


def told(tmp_path: Path, rows: list[gpu.Row], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(gpu, "rows", lambda *given: rows)
    with pytest.raises(typer.Exit) as ended:
        gpu.main(device="cpu", tiny=True, out=tmp_path, only="")
    return ended.value.exit_code, (tmp_path / "results.md").read_text()


def test_rows_that_fail_are_named_and_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        print("begun")
        raise RuntimeError("no such device")

    rows = [gpu.Row("one", fail, 9), gpu.Row("two", lambda: print("| a figure |"), 9)]
    code, text = told(tmp_path, rows, monkeypatch)
    assert code == 1
    assert text.index("begun") < text.index("RuntimeError: no such device") < text.index("## two")
    assert text.index("## two") < text.index("| a figure |")


def test_tiny_rows_print_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Full size against diffusers", "Roofline", "VAE and vocoder", "Memory")
    rows = [row for row in gpu.rows("cpu", True, tmp_path) if row.name in names]
    assert len(rows) == len(names)
    code, text = told(tmp_path, rows, monkeypatch)
    assert code == 0, text
    assert all(f"## {name}" in text for name in names)
    assert "| run 1 |" in text
    assert "GFLOP" in text
    assert "| eager |" in text
    assert "| vocode |" in text


def test_all_rows_fit_six_minutes(tmp_path: Path) -> None:
    assert sum(row.limit for row in gpu.rows("cuda", False, tmp_path)) <= 360
