"""A step of fine-tuning's longest stage in several precisions, compiled or not.

    python -m benchmarks.finetune --batch 16 --repeats 3

The starter's U-Net is trained as the recipe's `unet` stage does, on made-up features. The variants alternate; quote the
ratio.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

from benchmarks.generate import now
from sounding.model import load
from training.engine.environment import build_accelerator
from training.engine.loader import SPREAD
from training.engine.optimization import backward
from training.engine.training_state import TrainingState
from training.finetune.distillation import DistillationObjective
from training.finetune.plan import FinetuneRecipe
from training.recipe import RECIPES, read_recipe

PARTS = ("gradients", "update")


def recipe_of() -> FinetuneRecipe:
    """The recipe of the command."""
    return read_recipe(RECIPES / "finetune.yaml", FinetuneRecipe)


def unet_step(variant: str, batch: int, device: str, base: str) -> Callable[[], list[float]]:
    """A step of the recipe's `unet` stage; gives processor seconds (on a GPU wall-clock seconds) of its `PARTS`.

    Args:
        variant: a precision, and "+compile" where the step is compiled.
        batch: items per step; half of them are rehearsal items.
        device: cpu or cuda.
        base: "starter" or a checkpoint.
    """
    torch.manual_seed(0)
    recipe, (precision, *compiled) = recipe_of(), variant.split("+")
    changes: dict[str, Any] = {"precision": precision, "batch": batch, "compile": bool(compiled)}
    loop = dataclasses.replace(recipe.unet, **changes)
    model = load(base, device=device, dtype=torch.float32)
    before = copy.deepcopy((model.grounding, model.unet))
    objective = DistillationObjective(model, recipe.diffusion, before, recipe.distillation_weight, recipe.rank)
    accelerator = build_accelerator(loop)
    training = TrainingState(objective, None, loop, recipe.unet.steps, accelerator)
    objective.train()
    one = objective.example(accelerator.device)
    items: dict[str, Any] = {name: value.expand(batch, *value.shape[1:]).clone() for name, value in one.items()}
    items["known"] = torch.arange(batch, device=accelerator.device) % 2 == 0
    items[SPREAD] = (torch.arange(batch, device=accelerator.device) + 0.5) / batch

    def clock() -> float:
        return now(accelerator.device) if accelerator.device.type == "cuda" else time.process_time()

    def step() -> list[float]:
        for name in ("latents", "noise", "patches", "query"):
            items[name].normal_()
        began = clock()
        backward(training.objective, None, items, 1)
        middle = clock()
        training.update(0)
        return [middle - began, clock() - middle]

    return step


def main(
    batch: Annotated[int, typer.Option(help="Items per step; the recipe has 16.")] = 16,
    repeats: Annotated[int, typer.Option(help="Steps of each variant; their median counts.")] = 3,
    variants: Annotated[str, typer.Option(help="Precisions, with +compile for a compiled step.")] = "fp32,bf16",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
) -> None:
    """Print a table in Markdown: the first variant is what the others are compared with."""
    names = variants.split(",")
    steps = {name: unet_step(name, batch, device, model) for name in names}
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for repeat in range(repeats + 1):  # the first one warms up
        for name in names if repeat % 2 else reversed(names):
            took = steps[name]()
            if repeat:
                times[name].append(took)
    count = recipe_of().unet.steps
    unit = "seconds" if device == "cuda" else "processor seconds"
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    print(f"U-Net of {model}, {batch} items per step, {device}{threads}, torch {torch.__version__}; {unit}\n")
    print(f"| median of {repeats} | {' | '.join(PARTS)} | step | against {names[0]} | {count} steps, minutes |")
    print("| --- | --- | --- | --- | --- | --- |")
    whole = {name: statistics.median(sum(took) for took in times[name]) for name in names}
    for name in names:
        parts = " | ".join(f"{statistics.median(column):.3f}" for column in zip(*times[name], strict=True))
        ratio, minutes = whole[names[0]] / whole[name], whole[name] * count / 60
        print(f"| {name} | {parts} | {whole[name]:.3f} | {ratio:.2f} x | {minutes:.1f} |")


if __name__ == "__main__":
    typer.run(main)
