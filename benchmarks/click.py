"""From a mask on a known image to a waveform: seconds of each step, for one checkpoint or several in turn.

    python -m benchmarks.click --model starter --model runs/distil/distil.safetensors --threads 2

What a click costs once the image was seen, on a warm model: `ground`, `sample` with the checkpoint's own steps and
guidance, `decode` and `vocode`. Checkpoints take turns, so that other load affects all of them; medians are printed.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Annotated

import torch
import typer

from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel, load

IMAGE, MASK = "example_workflows/input/farm.png", "example_workflows/input/farm_mask_cow.png"
STEPS = ("ground", "sample", "decode", "vocode")


def click(model: SoundingModel, patches: torch.Tensor, mask: torch.Tensor, seconds: float) -> list[float]:
    """Seconds of each of `STEPS`."""
    times = [time.perf_counter()]
    condition = model.ground(patches, mask=mask)
    times.append(time.perf_counter())
    latents = model.sample(condition, model.noise(seconds, [len(times)]))
    times.append(time.perf_counter())
    mel = model.decode(latents)
    times.append(time.perf_counter())
    model.vocode(mel, seconds)
    times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def main(
    model: Annotated[list[str], typer.Option(help="'starter' or a checkpoint; several may be given.")],
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 5.0,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(threads)
    image, mask = read_image(IMAGE), read_mask(MASK)
    models = {name: load(name, device=device) for name in model}
    seen = {name: one.see(image) for name, one in models.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, one in models.items():
            spent = click(one, seen[name], mask, seconds)
            if turn:  # the first one warms up
                times[name].append(spent)
    print(f"{seconds:g} s of sound, {threads} threads, {device}, torch {torch.__version__}; medians of {repeats}\n")
    print(f"| checkpoint | steps | guidance | {' | '.join(STEPS)} | whole, seconds |")
    print("| --- " * (len(STEPS) + 4) + "|")
    for name, one in models.items():
        own = one.config.generation
        medians = [statistics.median(column) for column in zip(*times[name], strict=True)]
        whole = statistics.median(sum(spent) for spent in times[name])
        cells = " | ".join(f"{each:.3f}" for each in medians)
        print(f"| {one.config.name} | {own.steps} | {own.cfg:g} | {cells} | {whole:.3f} |")


if __name__ == "__main__":
    typer.run(main)
