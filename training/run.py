"""From a recipe to a checkpoint: initial weights, objective and items, the loop, the export."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from sounding.config import OPTIONAL, PARTS, SoundingConfig
from sounding.model import SoundingModel

from .data.shard_folders import find_folders
from .engine.environment import build_accelerator, check_environment
from .engine.loader import Items, Order
from .engine.loop import train
from .engine.previews import check_previews, make_previews
from .engine.report import Report
from .engine.states import plain_disk_errors
from .engine.validation import Validation, split, warn_of_overlap
from .initialization import initialize
from .provenance import DATA, START, data_fingerprint, header, is_finished, keep_recipe, weights_fingerprint
from .recipe import RANDOM, Recipe
from .registry import TASKS
from .tasks.task import Built, NetworkTask, Task

log = logging.getLogger("training")

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Ready:
    """A run before its first step, with everything built and checked."""

    model: SoundingModel | None  # None where a network of its own is trained
    built: Built  # items without those held out
    held_out: Items | None
    steps: int
    effective: Recipe  # with the configuration of the model as built, parts from checkpoints included
    made_of: dict[str, str]  # fingerprints of the data and the initial weights, see `provenance`


def fresh_parts(recipe: Recipe) -> frozenset[str]:
    """The model's parts that start from random weights."""
    return frozenset(part for part in (*PARTS, *OPTIONAL) if recipe.source(part) == RANDOM)


def check_alone(recipe: Recipe) -> None:
    """Refuse what a recipe of a `NetworkTask` says of a model that makes sounds.

    Raises:
        ValueError: naming the block.
    """
    for block, given in (
        ("start", bool(recipe.start)),
        ("model", recipe.model != SoundingConfig()),
        ("preview.every", bool(recipe.preview.every)),
    ):
        if given:
            raise ValueError(
                f"{block} is set, but the {recipe.task} trainer trains a network of its own, which makes no sounds; "
                "leave it out."
            )


def prepare(recipe: Recipe, *, processes: int = 1, quick: bool = False) -> Ready:
    """Build and check all that a run needs before its first step, and write nothing.

    Args:
        recipe: what to train, and how.
        processes: that the batch is to be divided among.
        quick: leave out what takes minutes, see `Task.quick`.

    Raises:
        ValueError, OSError: whatever would end the run later: see `initialize` and `Task.items`; a batch that cannot
            be split, a preview that cannot be made.
    """
    check_environment(recipe.loop)
    task, data = TASKS[recipe.task], recipe.data
    if bool(data.shards) == bool(data.stamps):
        raise ValueError("data has both or neither of shards and stamps, but one is expected; name a folder.")
    settings = task.quick(recipe.settings) if quick else recipe.settings
    model: SoundingModel | None = None
    fresh = fresh_parts(recipe)
    if isinstance(task, NetworkTask):
        check_alone(recipe)
        torch.manual_seed(recipe.loop.seed)
        built = task.build(settings, data)
    else:
        assert isinstance(task, Task)
        model = initialize(recipe)
        if task.learns_unet:
            model.drop_student()
        built = task.build(model, settings, data, fresh)
    held_out: Items | None = None
    if recipe.validation.share:
        items, held_out = split(built.items, recipe.validation.share)
        built = dataclasses.replace(built, items=items)
    elif recipe.validation.shards:
        other = dataclasses.replace(data, shards=recipe.validation.shards, stamps="")
        if isinstance(task, NetworkTask):
            held_out = task.items(recipe.settings, other)
        else:
            assert isinstance(task, Task)
            assert model is not None
            held_out = task.items(model, recipe.settings, other)
        warn_of_overlap(built.items, held_out)
    effective = recipe if model is None else dataclasses.replace(recipe, model=model.config)
    count = task.epoch(recipe.settings, built.items)
    steps = recipe.loop.length(count)
    Order(count, batch=recipe.loop.batch, steps=steps, accumulate=recipe.loop.accumulate, processes=processes)
    if recipe.preview.every and model is not None:
        check_previews(model.config, recipe.preview)
    folders = [*(find_folders(data.shards) if data.shards else ()), data.stamps, *task.folders(recipe.settings)]
    first = [recipe.source(part) for part in (*PARTS, *OPTIONAL) if part not in fresh]
    made_of = {
        DATA: data_fingerprint(folder for folder in folders if folder),
        START: weights_fingerprint(first),
    }
    return Ready(model, built, held_out, steps, effective, made_of)


def run(recipe: Recipe) -> Path:
    """Train by the recipe, continuing an earlier run of it that was stopped, and write the checkpoint.

    Returns:
        The checkpoint, `recipe.result`, with all parts of the model; the nodes load it as it is. Of a `NetworkTask`
        it is a file of the network's own kind.

    Raises:
        ValueError: see `prepare` and `train`; or the run is finished, with other settings or data.
        OSError: a file cannot be read or written, in one sentence.
        Stopped: see `train`.
    """
    with plain_disk_errors(recipe.folder):
        accelerator = build_accelerator(recipe.loop)
        ready = prepare(recipe, processes=accelerator.num_processes)
        if is_finished(recipe, ready.effective, ready.steps, ready.made_of):
            log.info("%s is there, trained with these settings; nothing is left to do", recipe.result)
            return recipe.result
        accelerator.wait_for_everyone()  # none may write before all have checked
        if accelerator.is_main_process:
            keep_recipe(recipe, ready.effective)
        model, objective = ready.model, ready.built.objective

        def preview(step: int, report: Report) -> None:
            assert model is not None
            objective.install(model)
            with report.paused():
                sounds = make_previews(model, recipe.preview)
            report.preview(step, sounds)

        def export(file: Path, **record: str) -> None:
            made = header(ready.effective.to_yaml(), ready.made_of[DATA], ready.made_of[START]) | record
            task = TASKS[recipe.task]
            if isinstance(task, NetworkTask):
                task.write(objective, file, made, dtype=DTYPES[recipe.dtype])
                return
            assert isinstance(task, Task)
            assert model is not None
            objective.install(model)
            task.finish(model, ready.built)
            model.save_pretrained(
                file,
                dtype=DTYPES[recipe.dtype],
                title=recipe.name,
                description=recipe.description or f"Trained by the recipe {recipe.name}.",
                licence=recipe.licence,
                record=made,
            )

        def keep_best(step: int, loss: float) -> None:
            export(recipe.best, **{"training.validation": f"loss {loss:.6g} after {step} steps"})

        validation = None
        if ready.held_out is not None and recipe.validation.every:
            validation = Validation(ready.held_out, recipe.validation, keep_best)
        train(
            objective,
            ready.built.items,
            recipe.loop,
            recipe.folder,
            workers=recipe.data.workers,
            critic=ready.built.critic,
            preview=preview,
            preview_due=recipe.preview.due,
            validation=validation,
            accelerator=accelerator,
        )
        if accelerator.is_main_process:
            export(recipe.result)
            log.info("%s is written", recipe.result)
        return recipe.result
