"""Seconds from nothing: the command in a process of its own, what it imports, and the library as a guest of a host.

    python -m benchmarks.startup --repeats 3

Every figure is the median of processes that run one after another, with warm file caches.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "example_workflows" / "input"
# What each process runs; what a row needs before its own part is measured by the row of that name.
ROWS = {
    "import torch": "import torch",
    "torch, and all modules of the library that nodes import": "import torch, sounding.model, sounding.segment.click",
    "torch and diffusers' networks": "import torch; from diffusers import UNet2DConditionModel, AutoencoderKL",
    "peer: torch and diffusers' AudioLDMPipeline": "import torch; from diffusers import AudioLDMPipeline",
}


def run(command: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(
    repeats: Annotated[int, typer.Option(help="Processes per row; their median counts.")] = 3,
    steps: Annotated[str, typer.Option(help="Sampling steps of the command, separated by commas.")] = "1,25",
) -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {label: [sys.executable, "-c", code] for label, code in ROWS.items()}
        for count in steps.split(","):
            command = [sys.executable, "-m", "sounding", "generate", "--device", "cpu", "--steps", count]
            command += ["--image", str(IMAGES / "yard.png"), "--mask", str(IMAGES / "yard_mask_dog.png")]
            rows[f"`sounding generate`, 5 s of sound, {count} steps"] = [*command, "--out", f"{folder}/sound.wav"]
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in rows}
        for repeat in range(repeats + 1):  # the first one warms up
            for label, command in rows.items():
                measured = run(command)
                if repeat:
                    times[label].append(measured)
    print(f"| median of {repeats} | seconds | processor seconds |\n| --- | --- | --- |")
    for label, measured_times in times.items():
        wall, processor = (statistics.median(column) for column in zip(*measured_times, strict=True))
        print(f"| {label} | {wall:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    typer.run(main)
