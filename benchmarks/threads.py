"""What other programs cost: the starter samples alone, beside a busy process, and beside another torch program.

    python -m benchmarks.threads

Two processes load the starter and take turns, so that other load on the machine affects both: in one, threads spin as
torch's OpenMP runtime lets them ("before"), in the other they wait as set by `sounding.utils.threads` ("after"). Each
has `--threads` threads. The competing processes are started and ended here. Medians are printed as rows for RESULTS.md,
with the longest time in brackets. It takes some three minutes on an otherwise quiet machine.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from sounding.model import load
from sounding.utils import threads

SIDES = ("before", "after")
BESIDE = {
    "nothing": "",
    "one busy process": "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass",
    "another program that runs torch on two threads": "-m",
}
SECONDS, STEPS, CFG = 5.0, 5, 7.0
LONG = 5.0  # seconds per run beyond which fewer are made
ROOT = Path(__file__).parent.parent


def main(
    repeats: Annotated[int, typer.Option(help="Runs of each side; their median counts.")] = 9,
    count: Annotated[int, typer.Option("--threads", help="Threads of each program.")] = 2,
    side: Annotated[str, typer.Option(help="Used by the benchmark itself, for its processes.")] = "",
) -> None:
    """Print one row per kind of competing program."""
    if side:
        work(side, count)
        return
    print(f"{SECONDS:g} s of sound, {STEPS} guided steps, {count} threads each, {os.cpu_count()} processors", end="")
    print(f", torch {torch.__version__}; seconds, median of up to {repeats} (longest)\n")
    print("| beside | before | after | after / before | after / quiet |\n| --- | --- | --- | --- | --- |")
    quiet = 0.0
    with worker("before", count) as before, worker("after", count) as after:
        digests = set()
        for beside, code in BESIDE.items():
            times: dict[str, list[float]] = {name: [] for name in SIDES}
            with competitor(code, count):
                for repeat in range(repeats):
                    for name in SIDES if repeat % 2 else reversed(SIDES):
                        if len(times[name]) >= 3 and statistics.median(times[name]) > LONG:
                            continue  # the median is clear
                        seconds, digest = run({"before": before, "after": after}[name])
                        times[name].append(seconds)
                        digests.add(digest)
                        print(f"{beside}, {name}: {seconds:.2f} s", file=sys.stderr)
            middle = {name: statistics.median(times[name]) for name in SIDES}
            quiet = quiet or middle["after"]
            cells = [f"{middle[name]:.2f} ({max(times[name]):.2f})" for name in SIDES]
            print(f"| {beside} | {cells[0]} | {cells[1]} |", end="")
            print(f" {middle['after'] / middle['before']:.2f} | {middle['after'] / quiet:.2f} |", flush=True)
    print(f"\nThe samples are the same in all runs: {'yes' if len(digests) == 1 else 'NO'}")


def work(side: str, count: int) -> None:
    """Sample once per line on standard input; "forever" does not wait for lines and ends with the benchmark."""
    torch.set_num_threads(count)
    if side != "after":
        threads.pool_starter = lambda: None  # type: ignore[assignment]
    model = load("starter", device="cpu", parts=["patches", "grounding", "unet"])
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:40, 20:50] = 1
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    condition = model.ground(model.see(image), mask=mask)
    noise = model.noise(SECONDS, [2])

    def sample() -> str:
        latents = model.sample(condition, noise, steps=STEPS, cfg=CFG, sampler="dpm++")
        return hashlib.sha256(latents.numpy().tobytes()).hexdigest()

    sample()
    print("ready", flush=True)
    parent = os.getppid()
    while os.getppid() == parent if side == "forever" else sys.stdin.readline():
        start = time.perf_counter()
        digest = sample()
        if side != "forever":
            print(time.perf_counter() - start, digest, flush=True)


@contextmanager
def worker(side: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has the model loaded and waits, started as a user would: without OpenMP settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", "--side", side, "--threads", str(count)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@contextmanager
def competitor(code: str, count: int) -> Iterator[None]:
    """The competing program: none, a busy loop, or the same sampling over and over ("-m")."""
    if code == "-m":
        with worker("forever", count):
            yield
    elif code:
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            try:
                time.sleep(1)
                yield
            finally:
                process.kill()
    else:
        yield


def run(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Seconds of one sampling, and a digest of its result."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    seconds, digest = process.stdout.readline().split()
    return float(seconds), digest


if __name__ == "__main__":
    typer.run(main)
