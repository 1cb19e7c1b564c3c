"""The paper's model at full size, once through every step: saved, loaded, one training step, one sound.

    python -m benchmarks.true_size

Weights are random, so the sound is noise; the run shows that sizes, files, gradients and memory are right.
"""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from sounding.checkpoint import describe
from sounding.config import PARTS, SoundingConfig
from sounding.model import SoundingModel
from training.tasks.grounded import GroundedObjective, GroundedSettings


@contextmanager
def row(what: str, result: list[str]) -> Iterator[None]:
    """Print a line of the table: what was done, the processor's seconds, the process's peak so far, the result."""
    gc.collect()
    start = time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {what} | {time.process_time() - start:.1f} | {peak:.2f} | {result.pop()} |", flush=True)


def main(
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 2.56,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="For the checkpoint; without it a temporary one.")] = None,
) -> None:
    """Print what was done, how long it took and how much memory the process had at most, in Markdown."""
    torch.manual_seed(0)
    said: list[str] = []
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| step | processor seconds | peak GiB so far | result |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=folder) as where:
        path = Path(where) / "true_size.safetensors"
        with row("built, random weights, float32", said):
            model = SoundingModel(SoundingConfig()).requires_grad_(False)
            said.append(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters")
        with row("saved as float16", said):
            model.save_pretrained(path)
            described = describe(path)
            said.append(f"{described['bytes'] / 1e9:.2f} GB, " + " ".join(described["parameters"]))
        del model
        with row("loaded, all parts, float32", said):
            model = SoundingModel.from_pretrained(path)
            said.append(f"{len(model.state_dict())} tensors")
        with row("one training step of grounding and U-Net, one clip of 10.24 s", said):
            objective = GroundedObjective(model, GroundedSettings())
            batch = objective.example(torch.device("cpu"))
            batch |= {name: torch.randn(batch[name].shape) for name in ("latents", "noise", "patches", "query")}
            learning = [weight for weight in objective.parameters() if weight.requires_grad]
            optimizer = torch.optim.AdamW(learning, 1e-4, betas=(0.95, 0.999), eps=1e-6, weight_decay=1e-3)
            before = [weight.detach().clone() for weight in learning]
            loss = objective(batch)["loss"]
            loss.backward()
            optimizer.step()
            moved = sum(not torch.equal(old, new) for old, new in zip(before, learning, strict=True))
            size = sum(weight.numel() for weight in learning) / 1e6
            said.append(f"loss {float(loss.detach()):.2f}; {moved} of {len(learning)} tensors ({size:.1f} M) moved")
        del objective, optimizer, before, learning, model
        with row("loaded without the query, for a mask", said):
            model = SoundingModel.from_pretrained(path, parts=[part for part in PARTS if part != "query"])
            said.append("")
        with row(f"generated, {seconds} s in {steps} steps with guidance", said):
            mask = torch.zeros(1, 64, 64)
            mask[:, :32] = 1
            sound = model.generate(image=torch.rand(1, 480, 640, 3), mask=mask, seconds=seconds, steps=steps).waveform
            said.append(f"{list(sound.shape)}, {'finite' if sound.isfinite().all() else 'NOT FINITE'}")


if __name__ == "__main__":
    typer.run(main)
