"""How the cost of generation grows: with the number of sounds, with their length, with the objects of one image.

    python -m benchmarks.growth --steps 4
    python -m benchmarks.growth --device cuda --items 1,4,16,64 --seconds 5,10,20,60 --objects 1,2,4,8,16

Each row is one call of `SoundingModel.generate` with the starter: `items` sounds of one selection, one sound of
`seconds`, one sound per object of one image, or one sound of all of them, their blend. Prints a table in Markdown, and
draws the same as an SVG into runs/.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.generate import now
from sounding.cli.demo import OBJECTS, SCENE, demo_images
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel, load

SECONDS = 5.0  # of sounds where another number grows
Row = tuple[int | float, float, float, float]  # size, seconds, processor seconds, GB


def numbers(text: str) -> list[float]:
    """Such as "1,4,16" as numbers.

    Raises:
        ValueError: others than positive numbers.
    """
    found = [float(word) for word in text.split(",")]
    if not found or min(found) <= 0:
        raise ValueError(f"{text!r} came, but positive numbers with commas between them are expected.")
    return found


def measure(work: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, float, float]:
    """Median seconds and processor seconds, and the peak of memory in GB: of a GPU, else of this process until now."""
    seconds, processors = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        start, processor = now(device), time.process_time()
        work()
        seconds.append(now(device) - start)
        processors.append(time.process_time() - processor)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return statistics.median(seconds), statistics.median(processors), peak


def measure_all(
    model: SoundingModel, sizes: dict[str, list[float]], steps: int | None, repeats: int
) -> dict[str, list[Row]]:
    """Rows of "items", "objects", "blend" and "seconds", the smallest size of each first."""
    device = model.require("unet").device
    image = read_image(demo_images() / f"{SCENE}.png")
    masks = torch.cat([read_mask(demo_images() / f"{SCENE}_mask_{name}.png") for name in OBJECTS])

    def generate(seconds: float, batch: int = 1, objects: int = 1, blend: bool = False) -> None:
        mask = masks[[number % len(masks) for number in range(objects)]]
        model.generate(image=image, mask=mask, blend=blend, seconds=seconds, batch=batch, steps=steps, seed=1)

    makers: dict[str, Callable[[float], None]] = {
        "items": lambda size: generate(SECONDS, batch=round(size)),
        "objects": lambda size: generate(SECONDS, objects=round(size)),
        "blend": lambda size: generate(SECONDS, objects=round(size), blend=True),
        "seconds": generate,
    }
    generate(SECONDS)  # warms up
    rows: dict[str, list[Row]] = {}
    for name, make in makers.items():
        rows[name] = [(size, *measure(partial(make, size), device, repeats)) for size in sorted(sizes[name])]
    return rows


def table(rows: dict[str, list[Row]]) -> str:
    """All rows in Markdown; the last but one column is the cost over that of as many of the smallest size."""
    lines = ["| what grows | size | seconds | processor seconds | per unit, of the smallest | peak, GB |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, measured in rows.items():
        least, cost = measured[0][0], measured[0][1]
        for size, seconds, processor, peak in measured:
            share = seconds / size / (cost / least)
            lines.append(f"| {name} | {size:g} | {seconds:.2f} | {processor:.2f} | {share:.2f} | {peak:.2f} |")
    return "\n".join(lines)


def object_ratios(measured: list[Row]) -> str:
    """A sentence per number of objects: their cost in units of the smallest number's, as a whole and per object."""
    (least, cost, work, _), *others = measured
    return "\n".join(
        f"{size:g} objects of one image take {seconds / cost:.2f} times as long as {least:g}, "
        f"{seconds / size / (cost / least):.2f} times as long per object "
        f"(in processor seconds {processor / work:.2f} and {processor / size / (work / least):.2f})."
        for size, seconds, processor, _ in others
    )


def draw(rows: dict[str, list[Row]], path: Path, title: str) -> None:
    """Seconds over size, one plot each, with the line of proportional growth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(4 * len(rows), 3.4), constrained_layout=True)
    for axis, (name, measured) in zip(axes, rows.items(), strict=True):
        sizes, seconds = [row[0] for row in measured], [row[1] for row in measured]
        axis.plot(sizes, seconds, "o-", label="measured")
        axis.plot(sizes, [seconds[0] * size / sizes[0] for size in sizes], ":", label="in proportion")
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    items: Annotated[str, typer.Option(help="Sounds of one selection.")] = "1,4,16,64",
    seconds: Annotated[str, typer.Option(help="Lengths of one sound.")] = "5,10,20,60",
    objects: Annotated[str, typer.Option(help="Objects of one image.")] = "1,4,16",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the checkpoint's own without it.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each row; medians count.")] = 1,
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    out: Annotated[Path, typer.Option(help="Plot to write, .svg or .png.")] = Path("runs/growth.svg"),
) -> None:
    """Print a table in Markdown and draw a plot."""
    sizes = {"items": numbers(items), "objects": numbers(objects), "seconds": numbers(seconds)}
    sizes["blend"] = sizes["objects"]
    loaded = load(model, device=device)
    encoded: list[int] = []
    with loaded.patches.register_forward_pre_hook(lambda part, inputs: encoded.append(len(inputs[0]))):
        rows = measure_all(loaded, sizes, steps, repeats)
    generations = 1 + repeats * sum(map(len, sizes.values()))  # and one that warms up
    steps = steps or loaded.config.generation.steps
    where = f"{device} ({torch.get_num_threads()} threads)" if device == "cpu" else device
    title = f"{model}, {steps} steps, {SECONDS:g} s where the length does not grow, {where}"
    print(f"{title}, torch {torch.__version__}, median of {repeats}\n")
    print(table(rows))
    print(f"\n{object_ratios(rows['objects'])}")
    print(f"Images encoded per generation: {sum(encoded) / generations:g}")
    draw(rows, out, title)
    print(f"\n{out}")


if __name__ == "__main__":
    typer.run(main)
