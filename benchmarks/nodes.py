"""What a run of *Sound This Object* takes on a ComfyUI server beyond the library's own time.

    python -m benchmarks.nodes --server http://127.0.0.1:8188

A server is to run already, with this pack and nothing to do, on the device and with the number of threads that the
library gets here. Runs of `example_workflows/api/one_object.json` with a new seed each, and of `SoundingModel.generate`
with the same settings, take turns. A node's time is from when the server says that it runs to when the next one does.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from sounding.client.graph import Graph, read_graph
from sounding.client.run import Progress, run_graph
from sounding.client.server import ComfyServer
from sounding.images.files import read_image, read_mask
from sounding.model import load

GRAPH = Path("example_workflows/api/one_object.json")
NODE = "2"


def node_seconds(server: ComfyServer, graph: Graph) -> float:
    """Seconds of the node on the server."""
    began: list[tuple[str, float]] = []

    def note(progress: Progress) -> None:
        if not began or began[-1][0] != progress.what:
            began.append((progress.what, time.perf_counter()))

    run_graph(server, graph, on_progress=note)
    title = graph[NODE]["_meta"]["title"]
    for (what, start), (_, end) in itertools.pairwise(began):
        if title in what:
            return end - start
    raise RuntimeError(f"The server told of {[what for what, _ in began]}, but of nothing after {title!r}.")


def main(
    server: Annotated[str, typer.Option(help="Address of a ComfyUI server.")] = "http://127.0.0.1:8188",
    images: Annotated[Path, typer.Option(help="Folder of dog.webp.")] = Path("example_workflows/input"),
    seconds: Annotated[float, typer.Option(help="Of sound.")] = 5.0,
    steps: Annotated[int, typer.Option(help="Sampling steps; few, so that the rest is seen.")] = 1,
    repeats: Annotated[int, typer.Option(min=1)] = 9,
    threads: Annotated[int | None, typer.Option(help="As the server has; without it as torch takes.")] = None,
) -> None:
    """Print a Markdown table."""
    if threads is not None:
        torch.set_num_threads(threads)
    comfy = ComfyServer(server)
    comfy.check()
    model, graph = load("starter"), read_graph(GRAPH)
    image, mask = read_image(images / "dog.webp"), read_mask(images / "dog.webp")
    on_server, here = [], []
    for turn in range(repeats + 1):
        one = copy.deepcopy(graph)
        one[NODE]["inputs"] |= {"seed": 1000 + turn, "steps": steps, "seconds": seconds}
        spent = node_seconds(comfy, one)
        start = time.perf_counter()
        model.generate(image=image, mask=mask, seconds=seconds, steps=steps, seed=1000 + turn)
        if turn:  # the first ones warm up
            on_server.append(spent)
            here.append(time.perf_counter() - start)
    node, library = statistics.median(on_server), statistics.median(here)
    print(f"{seconds:g} s of sound, {steps} steps, {torch.get_num_threads()} threads, medians of {repeats}\n")
    print("| the node, ms | the library, ms | beyond, ms |\n| --- | --- | --- |")
    print(f"| {1e3 * node:.0f} | {1e3 * library:.0f} | {1e3 * (node - library):.0f} |")


if __name__ == "__main__":
    typer.run(main)
