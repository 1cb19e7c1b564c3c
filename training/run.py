"""From a recipe to a checkpoint: weights to begin with, objective and items, the loop, the export."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sounding.config import PARTS, SEGMENTER
from sounding.model import SoundingModel

from .data.object_set import ObjectSet
from .data.shards import find_folders
from .data.sounds import Clips, ObjectClips, ShardClips
from .engine.learner import build_accelerator
from .engine.loader import Items, Order
from .engine.loop import train
from .engine.objective import Critic, Objective
from .engine.previews import check_previews, make_previews
from .engine.report import Report
from .engine.states import plain_disk_errors
from .recipe import RANDOM, Recipe
from .record import DATA, START, data_fingerprint, header, is_finished, keep_recipe, weights_fingerprint
from .start import begin
from .starter.cutouts import read_cutouts, with_stamps
from .starter.replay import RecallObjective
from .starter.replay_scenes import RecallItems
from .tasks.discriminators import MelCritic, WaveformCritic
from .tasks.encoders import EncodersObjective, SceneItems
from .tasks.grounded import GroundedItems, GroundedObjective
from .tasks.segmenter import SegmenterItems, SegmenterObjective
from .tasks.vae import VaeItems, VaeObjective
from .tasks.vocoder import VocoderItems, VocoderObjective

log = logging.getLogger("training")

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def build(recipe: Recipe, model: SoundingModel) -> tuple[Objective, Items, Critic | None]:
    """What the recipe's trainer learns, on what, and against which discriminators.

    Raises:
        ValueError: data that the trainer cannot use.
        FileNotFoundError: data that is not there.
    """
    data = recipe.data
    if bool(data.shards) == bool(data.stamps):
        raise ValueError("data has both or neither of shards and stamps, but one is expected; name a folder.")
    if recipe.task == "grounded":
        if not data.shards:
            raise ValueError("The grounded trainer reads features; make them with `python -m training prepare`.")
        items: Items = GroundedItems(data.shards, model, recipe.grounded)
        return build_objective(recipe, model), items, None
    if recipe.task in ("encoders", "recall"):
        if not data.stamps:
            raise ValueError(f"The {recipe.task} trainer draws scenes of stamps; give data.stamps.")
        stamps = ObjectSet(Path(data.stamps))
        names = [stamp.caption for stamp in stamps.entries]
        model.config = dataclasses.replace(model.config, vocabulary=tuple(dict.fromkeys(names)))
        if recipe.task == "recall":
            items = RecallItems(stamps, model, recipe.recall)
        else:
            items = SceneItems(stamps, model, backdrops=recipe.encoders.remembers)
        return build_objective(recipe, model, names=names), items, None
    if recipe.task == "segmenter":
        if not data.stamps or not recipe.segmenter.cutouts:
            raise ValueError("The segmenter's trainer draws scenes; give data.stamps and segmenter.cutouts.")
        cutouts = read_cutouts(Path(recipe.segmenter.cutouts), held_out=False)
        cutouts = with_stamps(cutouts, ObjectSet(Path(data.stamps)))
        return build_objective(recipe, model), SegmenterItems(cutouts, model, recipe.segmenter), None
    clips: Clips = ShardClips(data.shards) if data.shards else ObjectClips(ObjectSet(Path(data.stamps)), data.plain)
    critic: Critic | None = None
    if recipe.task == "vae":
        items = VaeItems(clips, model, recipe.vae)
        critic = MelCritic(recipe.vae.critic) if recipe.vae.critic else None
    else:
        items = VocoderItems(clips, model, recipe.vocoder)
        critic = WaveformCritic(recipe.vocoder.critic) if recipe.vocoder.critic else None
    return build_objective(recipe, model), items, critic


def build_objective(recipe: Recipe, model: SoundingModel, *, names: Sequence[str] = ()) -> Objective:
    """The recipe's objective over `model`; `names` are the captions of all objects, where a trainer asks for them."""
    if recipe.task == "grounded":
        return GroundedObjective(model, recipe.grounded)
    if recipe.task == "encoders":
        return EncodersObjective(model, recipe.encoders, list(names))
    if recipe.task == "recall":
        return RecallObjective(model, recipe.recall, list(names))
    if recipe.task == "vae":
        return VaeObjective(model, recipe.vae)
    if recipe.task == "segmenter":
        return SegmenterObjective(model, recipe.segmenter)
    return VocoderObjective(model, recipe.vocoder, fresh=recipe.source("vocoder") == RANDOM)


@dataclass(frozen=True)
class Ready:
    """A run before its first step, all that it needs looked at."""

    model: SoundingModel
    objective: Objective
    items: Items
    critic: Critic | None
    steps: int
    effective: Recipe  # with the model as it is, parts from checkpoints in it
    made_of: dict[str, str]  # fingerprints of data and first weights, see `record`


def prepare(recipe: Recipe, *, processes: int = 1, look: bool = False) -> Ready:
    """All that a run does before its first step but writing; with `look` without what takes minutes, the scenes and
    imagined objects of `recall`.

    Raises:
        ValueError, OSError: whatever would end the run then: see `begin` and `build`; a batch that cannot be split, a
            preview that cannot be made.
    """
    model = begin(recipe)
    effective = dataclasses.replace(recipe, model=model.config)
    few = dataclasses.replace(recipe.recall, scenes=2, imagined=2, cache="")
    objective, items, critic = build(dataclasses.replace(recipe, recall=few) if look else recipe, model)
    loop, count = recipe.loop, recipe.recall.scenes if recipe.task == "recall" else len(items)
    steps = loop.length(count)
    Order(count, batch=loop.batch, steps=steps, accumulate=loop.accumulate, processes=processes)
    if recipe.preview.every:
        check_previews(model.config, recipe.preview)
    folders = [*(find_folders(recipe.data.shards) if recipe.data.shards else ()), recipe.data.stamps]
    if recipe.task == "segmenter":
        folders.append(recipe.segmenter.cutouts)
    first = [recipe.source(part) for part in (*PARTS, SEGMENTER)]
    made_of = {
        DATA: data_fingerprint(folder for folder in folders if folder),
        START: weights_fingerprint(name for name in first if name != RANDOM),
    }
    return Ready(model, objective, items, critic, steps, effective, made_of)


def run(recipe: Recipe) -> Path:
    """Train what the recipe says, from where an earlier run of it stopped, and write the checkpoint.

    Returns:
        The checkpoint, `recipe.result`, with all parts of the model; the nodes load it as it is.

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
        accelerator.wait_for_everyone()  # all have looked
        if accelerator.is_main_process:
            keep_recipe(recipe, ready.effective)
        model, objective = ready.model, ready.objective

        def preview(step: int, report: Report) -> None:
            objective.install(model)
            with report.paused():
                sounds = make_previews(model, recipe.preview)
            report.preview(step, sounds)

        train(
            objective,
            ready.items,
            recipe.loop,
            recipe.folder,
            workers=recipe.data.workers,
            critic=ready.critic,
            preview=preview,
            preview_due=recipe.preview.due,
            accelerator=accelerator,
        )
        if accelerator.is_main_process:
            objective.install(model)
            if isinstance(objective, VaeObjective) and isinstance(ready.items, VaeItems):
                objective.measure_scale(model, ready.items)
            model.save_pretrained(
                recipe.result,
                dtype=DTYPES[recipe.dtype],
                title=recipe.name,
                description=recipe.description or f"Trained by the recipe {recipe.name}.",
                licence=recipe.licence,
                record=header(ready.effective.to_yaml(), ready.made_of[DATA], ready.made_of[START]),
            )
            log.info("%s is written", recipe.result)
        return recipe.result
