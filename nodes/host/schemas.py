"""What the schemas of the nodes share: their category, and inputs that several nodes have."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from comfy_api.latest import io

from ...sounding.config import MASKS, Masks
from ...sounding.diffusion import MAX_SEED
from .wires import ModelType

CATEGORY = "audio/Sounding"
MAX_SECONDS = 600.0


def schema(*, search_aliases: list[str], **fields: Any) -> io.Schema:
    """A schema in the pack's category, with search words where the host's version has them."""
    if "search_aliases" in {field.name for field in dataclasses.fields(io.Schema)}:
        fields["search_aliases"] = search_aliases
    return io.Schema(category=CATEGORY, **fields)


OWN = "checkpoint"  # among the samplers: the checkpoint's own, as 0 is for steps and guidance


def seconds_input() -> io.Float.Input:
    """Length of sounds."""
    return io.Float.Input(
        "seconds",
        default=5.0,
        min=0.1,
        max=MAX_SECONDS,
        step=0.1,
        tooltip="Length of the sound; the result has exactly this length.",
    )


def seed_input(tooltip: str = "The same seed makes the same sound. Item i of a batch uses seed + i.") -> io.Int.Input:
    """Where the noise comes from, with the host's choice of what becomes of it after a run."""
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def starter_or_model_input() -> Any:
    """A model, of nodes that take the starter without one."""
    return ModelType.Input(
        "model", optional=True, tooltip="From Sounding Load Model; without it the starter in the box."
    )


def steps_input(*, optional: bool = False) -> io.Int.Input:
    """Sampling steps."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=999,
        optional=optional,
        tooltip="0 takes the checkpoint's own number. More steps take longer.",
    )


def cfg_input(*, optional: bool = False) -> io.Float.Input:
    """Guidance."""
    return io.Float.Input(
        "cfg",
        default=0.0,
        min=0.0,
        max=30.0,
        step=0.1,
        optional=optional,
        tooltip="Guidance: how strongly the selection decides. 0 takes the checkpoint's own value; 1 switches it "
        "off and is twice as fast.",
    )


def masks_input() -> io.Combo.Input:
    """What masks do."""
    return io.Combo.Input(
        "by",
        options=[OWN, *MASKS],
        default=OWN,
        optional=True,
        tooltip="What a mask does. grounding: the model sees what is masked. names: what is masked is named, and the "
        "sentence with the name sounds. checkpoint does what the checkpoint was made for.",
    )


def masks_by(choice: str) -> Masks | None:
    """The widget's value as `SoundingModel.ground` takes it."""
    if choice not in (OWN, *MASKS):
        raise ValueError(f"by is {choice!r}, but one of {', '.join((OWN, *MASKS))} is expected.")
    return None if choice == OWN else cast("Masks", choice)


def text_input(name: str, tooltip: str) -> io.String.Input:
    """A text that may be left out."""
    return io.String.Input(name, default="", optional=True, tooltip=tooltip)


def level_input(*, optional: bool = False) -> io.Boolean.Input:
    """Whether sounds are brought to the same loudness."""
    return io.Boolean.Input(
        "level",
        default=True,
        optional=optional,
        tooltip="On: all sounds are equally loud (-20 LUFS), without DC offset, clicks at their ends or clipping; "
        "silence stays silent. Off: the vocoder's own samples.",
    )


def fade_input() -> io.Float.Input:
    """How leveled sounds end."""
    return io.Float.Input(
        "fade_out",
        default=-1.0,
        min=-1.0,
        max=MAX_SECONDS,
        step=0.05,
        optional=True,
        tooltip="Seconds over which a leveled sound fades out. -1 is 0.3 s, or a tenth of a short sound.",
    )


def loop_input() -> io.Boolean.Input:
    """Whether sounds are made to be repeated."""
    return io.Boolean.Input(
        "loop",
        default=False,
        optional=True,
        tooltip="On: the sound's end goes on with its beginning, so that it repeats without a seam. It is not faded, "
        "and its length is rounded to 10 ms.",
    )


def fade_seconds(fade_out: float) -> float | None:
    """The widget's value as `audio.loudness.level` takes it."""
    return None if fade_out == -1 else fade_out
