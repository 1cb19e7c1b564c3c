"""`python -m training finetune`: a trained model is taught a user's own objects and keeps those that it knows.

Samples alternate between new objects and rehearsal objects. The text encoder learns the new captions, grounding to tell
the new objects from all others, the U-Net the new sounds; patch tower, VAE and vocoder stay frozen. A run that was
interrupted goes on with the same command.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sounding.audio.files import write_audio
from sounding.checkpoint import read_header, resolve
from sounding.cli.terminal import progress
from sounding.encoders.text import OpenClipQuery
from sounding.model import SoundingModel, load
from sounding.utils.files import write_atomic

from ..data.features import FeatureSource
from ..data.scenes import TEMPLATES
from ..data.shard_format import SAMPLE_RATE
from ..data.shard_writer import make_shards
from ..data.source import Source, hash_json
from ..engine.environment import build_accelerator
from ..engine.loop import train
from ..engine.states import check_writable, plain_disk_errors
from ..provenance import header, weights_fingerprint
from ..recipe import RECIPES, read_recipe
from .distillation import DistillationItems, DistillationObjective
from .grounding import GroundingAdaptationItems, GroundingAdaptationObjective
from .objects import TaughtObject
from .plan import FinetuneRecipe, Objects, prepare, same_plan
from .report import Report
from .retrieval import MelRetrieval, Retrieved, generate_and_rank
from .scenes import ObjectSceneSource
from .text_encoder import TextEncoderItems, TextEncoderObjective

log = logging.getLogger("training")
STAGES = ("text_encoder", "grounding", "unet")


def finetune(
    data: Path,
    base: str,
    out: Path,
    *,
    rehearse: Sequence[str] | None = None,
    licence: str = "",
    recipe: FinetuneRecipe | None = None,
) -> Report:
    """Teach the checkpoint `base` the objects in `data` and write `out`, with all that is needed in `OUT-run/`.

    Args:
        data: see `training.finetune.objects`.
        base: "starter" or a checkpoint.
        out: a new .safetensors file.
        rehearse: what the model knows and is to keep: "starter" (what came with it), folders made by
            `python -m training starter stamps`, folders of raw shards that it was trained on, or folders like `data`
            that it was taught earlier; ("none",) for nothing. May be left out for the starter itself.
        licence: of the material in `data` where no licence.txt says it.
        recipe: settings, without it training/recipes/finetune.yaml.

    Raises:
        ValueError: nothing that can be learnt, `out` is there already or its run was begun with something else.
        CheckpointError: `base` cannot be read.
        FloatingPointError, Stopped: see `train`.
        OSError: a file cannot be written, in one sentence.
    """
    recipe = recipe or read_recipe(RECIPES / "finetune.yaml", FinetuneRecipe)
    began, folder = time.monotonic(), out.with_name(f"{out.stem}-run")
    with plain_disk_errors(folder):
        check_writable(folder)
        new, known, problems = prepare(data, base, out, folder, rehearse, licence)
        plan = same_plan(folder, base, recipe, new, known)
        return _teach(base, out, recipe, folder, new, known, problems, plan, began)


def _teach(
    base: str,
    out: Path,
    recipe: FinetuneRecipe,
    folder: Path,
    new: Objects,
    known: Objects,
    problems: list[str],
    plan: dict[str, Any],
    began: float,
) -> Report:
    log.info("%d new objects: %s; %d known ones are kept", len(new), ", ".join(o.name for o in new), len(known))
    accelerator = build_accelerator(recipe.unet)
    model = load(base, device=accelerator.device, dtype=torch.float32)
    if model.config.unet.few_steps:
        log.info("The few-step student of %s does not learn, so the result has none and takes more steps", base)
        model.drop_student()
    log.info("1 of 4: sounds as they are now")
    retrieval = MelRetrieval([*new, *known], model.config.train_seconds)
    numbers = list(range(len(new)))
    old = [len(new) + i * len(known) // recipe.known_evaluated for i in range(min(recipe.known_evaluated, len(known)))]
    before = _kept(
        folder / "before.json", lambda: {h.name: h.ranks for h in generate_and_rank(model, retrieval, numbers)}
    )
    known_before = _kept(
        folder / "known-before.json",
        lambda: {h.name: h.ranks for h in generate_and_rank(model, retrieval, old, each=1)},
    )
    learn(model, new, known, recipe, folder)
    retrieved = generate_and_rank(model, retrieval, numbers)
    _write_sounds(retrieved, folder / "sounds")
    stated = " AND ".join(sorted({thing.licence or "not stated" for thing in new}))
    result = Report(
        checkpoint=str(out),
        minutes=round((time.monotonic() - began) / 60, 2),
        among=len(new) + len(known),
        recordings_nearest=round(retrieval.recordings(), 3),
        before=before,
        after={one.name: one.ranks for one in retrieved},
        known_before=known_before,
        known_after={h.name: h.ranks for h in generate_and_rank(model, retrieval, old, each=1)},
        problems=problems,
        licence=f"{read_header(resolve(base)).metadata.get('modelspec.license', '')} AND own material: {stated}",
    )
    names = dict.fromkeys([*model.config.vocabulary, *(thing.captions[0] for thing in new)])
    model.config = dataclasses.replace(model.config, name=out.stem, vocabulary=tuple(names))
    model.save_pretrained(
        out,
        title=out.stem,
        description=f"{base}, taught {', '.join(thing.captions[0] for thing in new)} by `training finetune`.",
        licence=result.licence,
        record=header(recipe.to_yaml(), hash_json(plan["objects"]), weights_fingerprint([base])),
    )
    write_atomic(folder / "report.json", json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False).encode())
    for leftover in ("scenes", "features", "known", *(f"{stage}/states" for stage in STAGES)):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    return result


def learn(
    model: SoundingModel,
    new: Sequence[TaughtObject],
    known: Sequence[TaughtObject],
    recipe: FinetuneRecipe,
    folder: Path,
) -> None:
    """All stages in place, each from where an earlier call stopped."""
    config, before = model.config, copy.deepcopy((model.grounding, model.unet))
    log.info("2 of 4: %d images with their sounds", recipe.scenes)
    source = ObjectSceneSource(
        new, known, count=recipe.scenes, seconds=config.train_seconds, size=config.patches.image_size
    )
    _make(source, folder / "scenes")
    if recipe.text_encoder.steps and isinstance(model.query, OpenClipQuery):
        log.info("3 of 4: text encoder")
        sentences = [form.format(c) for thing in known for c in thing.captions for form in dict.fromkeys(TEMPLATES)]
        named = TextEncoderItems(folder / "scenes", model, sentences, count=512)
        train(TextEncoderObjective(model, sentences), named, recipe.text_encoder, folder / "text_encoder")
        model.requires_grad_(False)
    log.info("4 of 4: grounding and U-Net")
    _make(FeatureSource(folder / "scenes", model), folder / "features")
    diffusion = recipe.diffusion
    if recipe.grounding.steps and config.grounding.norm_matching:
        conditions = GroundingAdaptationItems(folder / "features", len(new))
        train(
            GroundingAdaptationObjective(model, conditions, len(new)),
            conditions,
            recipe.grounding,
            folder / "grounding",
        )
        model.requires_grad_(False)
    else:  # nobody gave the new objects conditions of their own, so they come with the sounds
        diffusion = dataclasses.replace(diffusion, keep_grounding=False)
    if recipe.unet.steps:
        sounds = DistillationObjective(model, diffusion, before, recipe.distillation_weight, recipe.rank)
        items = DistillationItems(folder / "features", model, diffusion, len(new))
        train(sounds, items, recipe.unet, folder / "unet")
        sounds.install(model)
        model.requires_grad_(False)


def _make(source: Source, out: Path) -> None:
    """Shards with a bar. Features are made here, where the model is; scenes by several processes if that pays."""
    cores = os.cpu_count() or 1
    workers = min(8, cores - 1) if source.kind == "raw" and cores > 3 else 0
    with progress(out.name, quiet=not sys.stderr.isatty()) as on_step:

        def report(done: int, skipped: int) -> None:
            if on_step is not None:
                on_step(done, len(source))

        make_shards(source, out, shard_size=120, workers=workers, on_progress=report)


def _kept(file: Path, work: Any) -> dict[str, list[int]]:
    """What `work` gave, from an earlier call if there was one."""
    if not file.is_file():
        write_atomic(file, json.dumps(work()).encode())
    found: dict[str, list[int]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _write_sounds(retrieved: Sequence[Retrieved], folder: Path) -> None:
    for one in retrieved:
        for turn, sound in enumerate(one.sounds, start=1):
            write_audio(folder / f"{one.name}-{turn}.wav", sound, SAMPLE_RATE)
