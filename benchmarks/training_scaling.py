"""What a training step costs as it grows: memory per clip, and time by micro-batches and by processes.

    python -m benchmarks.training_scaling --size starter --batch 8 --processes 1,2 --accumulate 1,2,4

Memory is that of one step of grounding and U-Net with fake tensors (`training.engine.estimate`): what one process holds
whatever the batch is, and what each clip adds. Times are those of the same step of all processes together: each row's
processes start anew, and train the same weights on made-up features. `--size full` is the paper's size.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Annotated

import torch
import typer

from benchmarks.generate import now
from benchmarks.training import LOOP, TINY, our_step
from sounding.config import SoundingConfig
from sounding.model import SoundingModel, load
from training.engine.environment import build_accelerator
from training.engine.estimate import estimate
from training.engine.settings import LoopConfig
from training.tasks.grounded import GroundedObjective, GroundedSettings

GIB = 2**30
ROW = "ROW "  # a line of a process that another one reads
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def model_of(size: str) -> SoundingModel:
    """Starter, or random weights of the full or a tiny size; nothing learns yet."""
    if size == "starter":
        return load("starter", device="cpu", dtype=torch.float32)
    return SoundingModel(TINY if size == "tiny" else SoundingConfig()).requires_grad_(False)


def memory_rows(size: str, precisions: tuple[str, ...] = ("fp32", "bf16")) -> list[str]:
    """Lines of a table: for each precision, without and with gradient checkpointing."""
    rows = []
    objective = GroundedObjective(model_of(size), GroundedSettings())
    for checkpointing in (False, True):
        if checkpointing:
            objective.checkpoint_gradients()
        for precision in precisions:
            mixed = "no" if precision == "fp32" else precision
            one, three = (
                estimate(objective, objective.example, batch=batch, steps=1, mixed_precision=mixed, ema=True, speed=1.0)
                for batch in (1, 3)
            )
            each = (three.activations - one.activations) / 2  # casts of weights are kept once, whatever the batch is
            fixed = one.memory - each
            name = precision + ", gradient checkpointing" * checkpointing
            fit = [max(0, int((room * 1e9 * 0.9 - fixed) / each)) for room in (24, 80)]
            gflop = one.flops / 1e9
            rows.append(f"| {name} | {fixed / GIB:.3g} | {each / GIB:.3g} | {fit[0]} | {fit[1]} | {gflop:.4g} |")
    return rows


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="starter, full or tiny.")] = "starter",
    batch: Annotated[int, typer.Option(help="Clips per step, over all processes and micro-batches.")] = 8,
    processes: Annotated[str, typer.Option(help="Numbers of processes, of one thread each on a CPU.")] = "1,2",
    accumulate: Annotated[str, typer.Option(help="Numbers of micro-batches.")] = "1,2,4",
    repeats: Annotated[int, typer.Option(help="Steps of each row; their median counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Print both tables in Markdown."""
    if context.invoked_subcommand:
        return
    print(f"Grounding and U-Net, {size}, AdamW and a running average, torch {torch.__version__}\n")
    print("| precision | GiB whatever the batch | GiB per clip | clips on 24 GB | on 80 GB | GFLOP per clip |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(memory_rows(size)))
    print(f"\n{batch} clips per step, {device}\n")
    print("| processes | micro-batches | seconds per step | processor seconds per clip | clips per second |")
    print("| --- | --- | --- | --- | --- |")
    for count in (int(word) for word in processes.split(",")):
        for micro in (int(word) for word in accumulate.split(",")):
            if batch % (count * micro):
                print(f"{batch} clips cannot be split over {count} x {micro}", file=sys.stderr)
                continue
            seconds, busy = timed_elsewhere(count, size, batch, micro, repeats, device)
            print(f"| {count} | {micro} | {seconds:.3f} | {busy / batch:.3f} | {batch / seconds:.2f} |", flush=True)


def timed_elsewhere(count: int, size: str, batch: int, micro: int, repeats: int, device: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step in processes of their own, the latter summed over them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    own = ["-m", "benchmarks.training_scaling", "step", "--size", size, "--share", str(batch // (count * micro))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})
    ran = subprocess.run(
        [sys.executable, *launcher, *own, "--micro", str(micro), "--repeats", str(repeats)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line.split(ROW)[1]) for line in ran.stdout.splitlines() if ROW in line]
    return max(row[0] for row in rows), sum(row[1] for row in rows)


@app.command(hidden=True)
def step(size: str = "", share: int = 1, micro: int = 1, repeats: int = 3) -> None:
    """One of the processes of a row: prints its medians."""
    accelerator = build_accelerator(LOOP)
    loop = LoopConfig(**{**vars(LOOP), "accumulate": micro})
    model = model_of(size).to(accelerator.device)
    run = our_step(model, share, loop)
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):  # the first one warms up
        start, busy = now(accelerator.device), time.process_time()
        run()
        times.append((now(accelerator.device) - start, time.process_time() - busy))
    medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]
    print(ROW + json.dumps(medians), flush=True)


if __name__ == "__main__":
    app()
