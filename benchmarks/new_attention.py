"""How should cross-attention that is new to a trained U-Net begin?

    python -m benchmarks.new_attention --features shards/features --model starter --steps 150

A U-Net that never saw a condition (AudioLDM's has none of our kind) gets cross-attention to it. "silent" sets its
output projections to zero, so that the first step sees the U-Net as it was; "random" leaves the library's start.
Both are tried on the given model with its own cross-attention thrown away, on the same items with the same noise.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from sounding.checkpoint import load_model, resolve
from sounding.model import SoundingModel
from training.engine.learner import LoopConfig
from training.engine.loop import train
from training.tasks.grounded import GroundedItems, GroundedObjective, GroundedSettings

STARTS = ("silent", "random")


def forget_attention(model: SoundingModel, start: str) -> None:
    """Begin the U-Net's cross-attention anew."""
    torch.manual_seed(0)
    for name, module in model.unet.named_modules():
        if ".attn2." in name and isinstance(module, nn.Linear):
            module.reset_parameters()
            if start == "silent" and ".to_out." in name:
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)


def main(
    features: Annotated[Path, typer.Option(help="Feature shards made with the model.")],
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    steps: Annotated[int, typer.Option(help="Of training, each way.")] = 150,
    every: Annotated[int, typer.Option(help="Steps a row of the table.")] = 25,
) -> None:
    """Train both ways and print their losses side by side, in Markdown."""
    losses: dict[str, list[float]] = {}
    loop = LoopConfig(batch=16, lr=3e-4, steps=steps, warmup=10, schedule="constant", log_every=every)
    for start in STARTS:
        loaded = load_model(resolve(model))
        forget_attention(loaded, start)
        settings = GroundedSettings(snr_gamma=5.0)
        items, objective = GroundedItems(features, loaded, settings), GroundedObjective(loaded, settings)
        with tempfile.TemporaryDirectory() as folder:
            train(objective, items, loop, Path(folder))
            lines = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        losses[start] = [json.loads(line)["loss"] for line in lines]
    print("| steps | silent | random |\n| --- | --- | --- |")
    for row, values in enumerate(zip(*(losses[start] for start in STARTS), strict=True)):
        print(f"| {row * every + 1} to {(row + 1) * every} | {values[0]:.4f} | {values[1]:.4f} |")


if __name__ == "__main__":
    typer.run(main)
