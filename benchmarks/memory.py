"""How much memory a generation at full size takes, stage by stage: weights and activations.

    python -m benchmarks.memory --device cuda
    python -m benchmarks.memory --device cpu

On a GPU this is the peak of torch's allocator. On a CPU the allocations and releases that torch's profiler records are
summed, which is what the same operations hold on a GPU without the workspace of its kernels. Weights are random and all
parts are on the device; ComfyUI keeps there only what a node uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.models import build_model
from sounding.model import SoundingModel


def peak_bytes(run: Callable[[], Any], model: SoundingModel, device: torch.device) -> tuple[int, Any]:
    """Peak bytes while `run` ran, weights included, and its result."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        result = run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(), result
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    records = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = np.cumsum([record.nbytes() for record in sorted(records, key=lambda record: record.start_ns())])
    return weight_bytes(model) + int(held.max(initial=0)), result


def weight_bytes(model: SoundingModel) -> int:
    """Bytes of the weights of all parts."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 10.24,
    batches: Annotated[str, typer.Option(help="Sounds per batch, one column each.")] = "1,4",
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model, to see that the command works.")] = False,
) -> None:
    """Print peaks in GB (10^9 bytes) as a Markdown table."""
    place, kind = torch.device(device), getattr(torch, dtype)
    model = build_model(device, kind, tiny)
    columns: list[list[int]] = []
    counts = [int(count) for count in batches.split(",")]
    for count in counts:
        image, mask = torch.rand(1, 480, 640, 3, device=place), torch.zeros(1, 480, 640, device=place)
        mask[:, 100:300, 200:400] = 1

        seeing, patches = peak_bytes(partial(model.see, image), model, place)
        condition = model.ground(patches, mask=mask, image_size=(480, 640))
        noise = model.noise(seconds, list(range(count)))
        sampling, latents = peak_bytes(
            partial(model.sample, condition, noise, steps=1, cfg=2.0, sampler="ddim"), model, place
        )
        decoding, mel = peak_bytes(partial(model.decode, latents), model, place)
        vocoding, _ = peak_bytes(partial(model.vocode, mel, seconds), model, place)
        columns.append([seeing, sampling, decoding, vocoding])
    name = torch.cuda.get_device_name() if place.type == "cuda" else "CPU, tensors counted"
    print(f"{name}, {dtype}, {seconds:g} s, weights {weight_bytes(model) / 1e9:.2f} GB, torch {torch.__version__}\n")
    print("| peak, GB | " + " | ".join(f"{count} at once" for count in counts) + " |")
    print("| --- |" + " --- |" * len(counts))
    for row, stage in enumerate(("see", "sample", "decode", "vocode")):
        print(f"| {stage} | " + " | ".join(f"{column[row] / 1e9:.2f}" for column in columns) + " |")


if __name__ == "__main__":
    typer.run(main)
