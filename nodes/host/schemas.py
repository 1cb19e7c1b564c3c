"""What the nodes' schemas share."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

CATEGORY = "audio/Sounding"
MAX_SECONDS = 600.0


def schema(*, search_aliases: list[str], **fields: Any) -> io.Schema:
    """A schema in our category, with search words where the host's version knows of them."""
    if "search_aliases" in {field.name for field in dataclasses.fields(io.Schema)}:
        fields["search_aliases"] = search_aliases
    return io.Schema(category=CATEGORY, **fields)


OWN = "checkpoint"  # among the schedulers: the checkpoint's own; so is 0 for steps and guidance


def steps_input(*, optional: bool = False) -> io.Int.Input:
    """Sampling steps."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=999,
        optional=optional,
        tooltip="0 takes what the checkpoint is best used with. More steps take longer.",
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
        tooltip="Guidance: how strongly the selection decides. 0 takes what the checkpoint is best used with; 1 "
        "switches it off and is twice as fast.",
    )


def level_input(*, optional: bool = False) -> io.Boolean.Input:
    """The switch of the nodes that give sounds."""
    return io.Boolean.Input(
        "level",
        default=True,
        optional=optional,
        tooltip="On: every sound is equally loud (-20 LUFS), without DC, clicks at its ends or clipping; silence stays "
        "silence. Off: the vocoder's own samples.",
    )


def fade_input() -> io.Float.Input:
    """How sounds that are leveled end."""
    return io.Float.Input(
        "fade_out",
        default=-1.0,
        min=-1.0,
        max=MAX_SECONDS,
        step=0.05,
        optional=True,
        tooltip="Seconds in which a leveled sound dies away at its end. -1 is 0.3 s, or a tenth of a short sound.",
    )


def fade_seconds(fade_out: float) -> float | None:
    """What `audio.level` takes for the widget's value."""
    return None if fade_out == -1 else fade_out
