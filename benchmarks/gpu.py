"""Every figure that needs a GPU, one row after the other, each in a process of its own and within a time limit.

    bash benchmarks/gpu.sh
    bash benchmarks/gpu.sh --device cpu --tiny

Rows are forked from a process that has imported the libraries and not touched the device, so a row neither waits for
imports nor inherits what another one did. What a row prints is in `results.md` at once; a row that fails or exceeds its
limit is named there, and the next one runs. `--tiny` goes through all rows with a tiny model in seconds, with nothing
compiled; its figures mean nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.gpu_rows import Row, Setting, all_rows

BUDGET = 330.0  # seconds of all rows: imports are left 30 of 6 minutes


def child(row: Row, results: Path) -> None:
    """Run a row with its output in the file, its error as well if it fails."""
    os.setsid()  # so that it can be ended together with its own children
    with results.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        sys.stdout = file
        try:
            row.run()
        except BaseException:
            print("FAILED: " + traceback.format_exc().replace("\n", "\n    "))
            raise SystemExit(1) from None


def run_row(row: Row, results: Path, limit: float | None) -> str:
    """Append the row to `results`; returns why it failed, or ""."""
    with results.open("a") as file:
        file.write(f"\n## {row.name}\n\n")
    start = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=child, args=(row, results))
    process.start()
    process.join(limit)
    failure = ""
    if process.is_alive():
        failure = f"FAILED: not done after {limit:.0f} s"
        with suppress(ProcessLookupError):
            os.killpg(process.ident or 0, signal.SIGKILL)
        process.kill()  # if it was so young that it led no group
        process.join()
    elif process.exitcode:
        failure = f"FAILED: exit code {process.exitcode}"
    with results.open("a") as file:
        file.write(f"\n({time.monotonic() - start:.1f} s{failure and ', ' + failure})\n")
    return failure


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu; limits of time hold on a GPU.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny networks: shows that the rows work.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks/out"),
    only: Annotated[str, typer.Option(help="Rows whose names begin so.")] = "",
) -> None:
    """Run the rows; exit with 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    if tiny:
        torch.compiler.set_stance("force_eager")
    results, began, failures = out / "results.md", time.monotonic(), 0
    results.write_text(f"# {'Tiny networks' if tiny else 'Full size'} on {device}, torch {torch.__version__}\n")
    for row in all_rows(Setting(device, tiny, out)):
        if not row.name.startswith(only):
            continue
        left = BUDGET - (time.monotonic() - began)
        failure = run_row(row, results, None if device == "cpu" else max(0.0, min(row.limit, left)))
        failures += bool(failure)
        print(f"{time.monotonic() - began:.0f} s: {row.name} {failure}", file=sys.stderr, flush=True)
    print(results.read_text())
    raise typer.Exit(1 if failures else 0)


if __name__ == "__main__":
    typer.run(main)
