"""From a recipe to a checkpoint: weights to begin with, objective and items, the loop, the export."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from sounding.checkpoint import save_model
from sounding.files import write_atomic
from sounding.model import SoundingModel

from .data.cutouts import read_cutouts, with_stamps
from .data.shard_format import INDEX
from .data.shards import Shards
from .data.sounds import Clips, ShardClips, StampClips
from .data.stamps import Stamps
from .discriminators import Critic, MelCritic, WaveformCritic
from .encoders import EncodersObjective, SceneItems
from .estimate import estimate
from .grounded import GroundedItems, GroundedObjective
from .learner import Objective, build_accelerator
from .loader import Items
from .loop import train
from .recall import RecallObjective
from .recall_scenes import RecallItems
from .recipe import RANDOM, Recipe
from .report import Report, make_previews
from .segmenter import SegmenterItems, SegmenterObjective
from .start import begin
from .vae import VaeItems, VaeObjective
from .vocoder import VocoderItems, VocoderObjective

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
        items: Items = GroundedItems(Path(data.shards), model, recipe.grounded)
        return build_objective(recipe, model), items, None
    if recipe.task in ("encoders", "recall"):
        if not data.stamps:
            raise ValueError(f"The {recipe.task} trainer draws scenes of stamps; give data.stamps.")
        stamps = Stamps(Path(data.stamps))
        names = [stamp.caption for stamp in stamps.stamps]
        if recipe.task == "recall":
            items = RecallItems(stamps, model, recipe.recall)
        else:
            items = SceneItems(stamps, model, backdrops=recipe.encoders.remembers)
        return build_objective(recipe, model, names=names), items, None
    if recipe.task == "segmenter":
        if not data.stamps or not recipe.segmenter.cutouts:
            raise ValueError("The segmenter's trainer draws scenes; give data.stamps and segmenter.cutouts.")
        cutouts = with_stamps(read_cutouts(Path(recipe.segmenter.cutouts), held_out=False), Stamps(Path(data.stamps)))
        return build_objective(recipe, model), SegmenterItems(cutouts, model, recipe.segmenter), None
    clips: Clips = ShardClips(Path(data.shards)) if data.shards else StampClips(Stamps(Path(data.stamps)), data.plain)
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


def run(recipe: Recipe) -> Path:
    """Train what the recipe says, from where an earlier run of it stopped, and write the checkpoint.

    Returns:
        The checkpoint, `recipe.result`, with all parts of the model; the nodes load it as it is.

    Raises:
        ValueError: see `begin`, `build` and `train`.
    """
    accelerator = build_accelerator(recipe.loop)
    model = begin(recipe)
    objective, items, critic = build(recipe, model)
    if accelerator.is_main_process:
        _keep_recipe(recipe)

    def preview(step: int, report: Report) -> None:
        objective.install(model)
        with report.aside():
            sounds = make_previews(model, recipe.preview)
        report.preview(step, sounds)

    train(
        objective,
        items,
        recipe.loop,
        recipe.folder,
        workers=recipe.data.workers,
        critic=critic,
        preview=preview,
        preview_due=recipe.preview.due,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        objective.install(model)
        if isinstance(objective, VaeObjective) and isinstance(items, VaeItems):
            objective.measure_scale(model, items)
        description = recipe.description or f"Trained by the recipe {recipe.name}."
        save_model(
            model,
            recipe.result,
            dtype=DTYPES[recipe.dtype],
            title=recipe.name,
            description=description,
            licence=recipe.licence,
        )
        log.info("%s is written", recipe.result)
    return recipe.result


def dry_run(recipe: Recipe) -> str:
    """What `run` would take: parameters, memory, operations and time, without data or a checkpoint."""
    model = SoundingModel(recipe.model).requires_grad_(False)
    objective = build_objective(recipe, model, names=["an object"])
    steps = recipe.loop.steps
    if not steps and recipe.data.shards and (Path(recipe.data.shards) / INDEX).is_file():
        steps = recipe.loop.length(len(Shards(Path(recipe.data.shards), ("id",))))
    found = estimate(
        objective,
        lambda device: (objective.example(device),),
        batch=recipe.loop.batch,
        steps=steps or 1,
        mixed_precision=recipe.loop.mixed_precision,
        ema=bool(recipe.loop.ema),
    )
    if steps:
        return str(found)
    return f"{found}\nThe steps are not known before the data is there; the time is that of one."


def _keep_recipe(recipe: Recipe) -> None:
    """Write the whole recipe beside its run; what changed since the run began is said, as it may matter."""
    file = recipe.folder / "recipe.yaml"
    text = recipe.to_yaml()
    if file.is_file() and (old := file.read_text(encoding="utf-8")) != text:
        changed = difflib.unified_diff(old.splitlines(), text.splitlines(), "before", "now", n=0, lineterm="")
        log.warning("The recipe changed since this run began:\n%s", "\n".join(changed))
    write_atomic(file, text.encode())
