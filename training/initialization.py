"""The model before the first step: parts from checkpoints keep their sizes, others have the recipe's."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch

from sounding.config import NAMING, OPTIONAL, PARTS, SEGMENTER, SoundingConfig
from sounding.grounding import Grounding
from sounding.model import SoundingModel

from .recipe import RANDOM, Recipe
from .registry import TASKS
from .tasks.segmenter import backbone_tensors
from .tasks.task import NetworkTask

log = logging.getLogger("training")

# Settings of a part that say how it is used or trained; a recipe may change them. All others belong to its weights.
BEHAVIOUR = {"patches": ("geometry",), "grounding": ("mask_training", "clamp_weights", "norm_matching")}
# Settings of other parts that the shapes of a part's weights depend on.
DEPENDS_ON = {
    "grounding": ("patches.width", "patches.grid", "query.width"),
    "unet": ("vae.latent_channels", "grounding.condition_width"),
    "segmenter": ("patches.tower", "patches.model"),
    "naming": ("patches.width",),
}
# Thresholds of sureness among the settings of generation: measured by a grounding, whichever U-Net it comes with.
SURENESS = ("backdrop_cosine", "backdrop_share", "norm_ratio", "norm_ratio_beside_cosine", "patch_cosine",
            "name_cosine")  # fmt: skip
FRESH = ("condition_mean", "condition_length")  # statistics that `grounding.norm_matching` adds


def initialize(recipe: Recipe) -> SoundingModel:
    """The model before the first step.

    A part from a checkpoint brings the settings that belong to its weights. How it is used (`BEHAVIOUR`, the length of
    clips, the diffusion) is taken from the recipe where the recipe sets it, otherwise from the checkpoint. Where recipe
    and checkpoint differ, a warning says which of the two was taken.

    Raises:
        ValueError: an unknown part, a checkpoint of other audio settings, or parts that do not fit each other.
        CheckpointError: a checkpoint that cannot be read.
    """
    if isinstance(TASKS[recipe.task], NetworkTask):
        raise ValueError(
            f"The {recipe.task} trainer trains a network of its own and starts from no model; give another recipe."
        )
    parts = (*PARTS, *OPTIONAL)
    unknown = sorted(recipe.start.keys() - {"all", *parts})
    if unknown:
        raise ValueError(f"start has {unknown[0]!r}, but all or one of {', '.join(parts)} is expected.")
    sources = {part: recipe.source(part) for part in parts}
    given = {name: SoundingModel.from_pretrained(name) for name in dict.fromkeys(sources.values()) if name != RANDOM}
    taken = {part: name for part, name in sources.items() if name != RANDOM}
    whole = given.get(taken.get(SEGMENTER, ""))
    if whole is not None and not _same_backbone(whole, given.get(taken.get("patches", ""))):
        del taken[SEGMENTER]  # it has none, or one for another patch tower
    if (whole := given.get(taken.get(NAMING, ""))) is not None and whole.naming is None:
        del taken[NAMING]
    config = resolve_config(recipe, {part: (name, given[name].config) for part, name in taken.items()})
    torch.manual_seed(recipe.loop.seed)
    try:
        model = SoundingModel(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"The model that the recipe describes cannot be built ({said}); mend its model.*.") from None
    for part, name in taken.items():
        _fill(model, part, given[name], f"{_key(recipe, part)} is {name}")
    return model.requires_grad_(False)


def resolve_config(recipe: Recipe, taken: dict[str, tuple[str, SoundingConfig]]) -> SoundingConfig:
    """The configuration of a model of which some parts come from checkpoints: part -> (its name, its configuration).

    Once the grounding is trained, masks are grounded, also where the checkpoint's masks stand for names.

    Raises:
        ValueError: see `initialize`.
    """
    explicit, mine = recipe.explicit, recipe.model
    _same_audio(recipe, taken)
    values: dict[str, Any] = {"name": recipe.name}
    if taken:
        values["audio"] = next(iter(taken.values()))[1].audio
    for part, (name, theirs) in taken.items():
        settings = getattr(theirs, part)
        if getattr(mine, part) is not None:  # recipes without a segmenter have None
            settings = _resolve_part(part, settings, getattr(mine, part), explicit, BEHAVIOUR.get(part, ()), name)
        values[part] = settings
    for item in dataclasses.fields(SoundingConfig):
        owner = "query" if item.name == "vocabulary" else "unet"  # what was trained with it, where no part is meant
        if owner not in taken or item.name in (*PARTS, *OPTIONAL, "name", "version", "audio", "absent"):
            continue
        name, theirs = taken[owner]
        old, new = getattr(theirs, item.name), getattr(mine, item.name)
        if dataclasses.is_dataclass(old) and dataclasses.is_dataclass(new):
            keys = tuple(field.name for field in dataclasses.fields(old))
            values[item.name] = _resolve_part(item.name, old, new, explicit, keys, name)
        elif item.name not in explicit:
            values[item.name] = old
        elif old != new:
            _warn_of_conflict(item.name, new, old, name, recipes=True)
    if "grounding" in taken:
        measured = taken["grounding"][1].generation
        thresholds = {key: getattr(measured, key) for key in SURENESS if f"generation.{key}" not in explicit}
        values["generation"] = dataclasses.replace(values.get("generation", mine.generation), **thresholds)
    try:
        config = dataclasses.replace(mine, **values)
    except ValueError as error:
        raise ValueError(f"The parts that start names and model.* do not fit each other: {error}") from None
    _check_fit(recipe, config, taken)
    if TASKS[recipe.task].learns_grounding(recipe.settings) and "generation.masks" not in explicit:
        config = dataclasses.replace(config, generation=dataclasses.replace(config.generation, masks="grounding"))
    return config


def _resolve_part(
    part: str, theirs: Any, mine: Any, explicit: frozenset[str], behaviour: tuple[str, ...], name: str
) -> Any:
    """A part's settings: the checkpoint's, except for behaviour that the recipe sets."""
    changes = {}
    for field in dataclasses.fields(theirs):
        key, old, new = f"{part}.{field.name}", getattr(theirs, field.name), getattr(mine, field.name)
        if key not in explicit or old == new:
            continue
        _warn_of_conflict(key, new, old, name, recipes=field.name in behaviour)
        if field.name in behaviour:
            changes[field.name] = new
    return dataclasses.replace(theirs, **changes)


def _warn_of_conflict(key: str, mine: object, theirs: object, name: str, *, recipes: bool) -> None:
    which = "the recipe's is taken" if recipes else "the checkpoint's is taken, for it belongs to the weights"
    log.warning("model.%s is %r in the recipe and %r in %s; %s.", key, mine, theirs, name, which)


def _same_audio(recipe: Recipe, taken: dict[str, tuple[str, SoundingConfig]]) -> None:
    """Refuse audio settings that differ between checkpoints, or between a checkpoint and what the recipe sets."""
    first: tuple[str, SoundingConfig] | None = None
    for name, theirs in taken.values():
        first = first or (name, theirs)
        for field in dataclasses.fields(theirs.audio):
            key, value = f"audio.{field.name}", getattr(theirs.audio, field.name)
            mine, other = getattr(recipe.model.audio, field.name), getattr(first[1].audio, field.name)
            if key in recipe.explicit and mine != value:
                raise ValueError(
                    f"{name} has other audio settings than the recipe: model.{key} is {value!r} there and {mine!r} "
                    f"here; set model.{key}={value}, or start from another checkpoint."
                )
            if other != value:
                raise ValueError(
                    f"start names checkpoints of different audio settings: {key} is {other!r} in {first[0]} and "
                    f"{value!r} in {name}; take both of one kind."
                )


def _check_fit(recipe: Recipe, config: SoundingConfig, taken: dict[str, tuple[str, SoundingConfig]]) -> None:
    """Refuse parts from checkpoints that were made for other widths than their neighbours have here."""
    for part, (name, theirs) in taken.items():
        for key in DEPENDS_ON.get(part, ()):
            owner, setting = key.split(".")
            old, new = (getattr(getattr(whole, owner), setting) for whole in (theirs, config))
            if old == new:
                continue
            if owner in taken:
                mend = f"take both from one checkpoint, or set start.{part}={RANDOM}"
                new = f"{new!r} in {taken[owner][0]}, where start.{owner} comes from"
            else:
                mend, new = f"set model.{key}={old}, or start.{part}={RANDOM}", f"{new!r} in the recipe"
            raise ValueError(
                f"{_key(recipe, part)} is {name}, whose {part} was made for a model with {key} {old!r}, but that is "
                f"{new}; {mend}."
            )
    lacks = (
        "grounding" in taken and config.grounding.norm_matching and not taken["grounding"][1].grounding.norm_matching
    )
    if lacks and not TASKS[recipe.task].learns_grounding(recipe.settings):
        name = taken["grounding"][0]
        raise ValueError(
            f"model.grounding.norm_matching is true in the recipe, but {name} was trained without it and this run "
            f"does not measure it; run `python -m training starter calibrate {name}` first, or leave it out."
        )
    heard = config.query.tower == "clap_audio"
    if heard != (config.grounding.query == "audio"):
        raise ValueError(
            f"model.grounding.query is {config.grounding.query!r}, but the query encoder is {config.query.tower!r}, "
            f"which takes {'sounds' if heard else 'sentences'}; set model.grounding.query="
            f"{'audio' if heard else 'text'}, or start.query from a checkpoint of the other kind."
        )


def _fill(model: SoundingModel, part: str, other: SoundingModel, came: str) -> None:
    """Copy the weights of a part of `other` to `model`; `came` names the source in errors."""
    module = getattr(model, part)
    weights, wanted = getattr(other, part).state_dict(), module.state_dict()
    if isinstance(module, Grounding):
        if module.config.norm_matching and not other.config.grounding.norm_matching:  # its statistics start anew
            weights = weights | {name: wanted[name] for name in FRESH}
            weights["weight_count"] = torch.zeros_like(weights["weight_count"])
        elif not module.config.norm_matching:
            weights = {name: value for name, value in weights.items() if name not in FRESH}
    for name in sorted(weights.keys() | wanted.keys()):
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (weights, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{came}, whose {part}.{name} is {shapes[0]}, but {shapes[1]} is expected with the recipe's model.*; "
                f"leave model.{part} out, or set start.{part}={RANDOM}."
            )
    module.load_state_dict(weights)


def _key(recipe: Recipe, part: str) -> str:
    """The recipe's key that names the checkpoint of a part."""
    return f"start.{part}" if part in recipe.start else "start.all"


def _same_backbone(whole: SoundingModel, patches: SoundingModel | None) -> bool:
    """Whether `whole` has a click decoder that was trained on the backbone of the patch tower of `patches`."""
    if whole.segmenter is None or patches is None:
        return False
    mine, other = (backbone_tensors(model.patches.state_dict()) for model in (whole, patches))
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
