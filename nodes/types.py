"""What travels on the wires between the nodes, and what all schemas share."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..sounding.config import SoundingConfig

if TYPE_CHECKING:
    from .handle import ModelHandle

CATEGORY = "audio/Sounding"
MAX_SECONDS = 600.0

ModelType = io.Custom("SOUNDING_MODEL")
PatchesType = io.Custom("SOUNDING_PATCHES")
ConditionType = io.Custom("SOUNDING_CONDITION")
MelType = io.Custom("SOUNDING_MEL")
SegmenterType = io.Custom("SOUNDING_SEGMENTER")


@dataclass(frozen=True)
class Patches:
    """Pictures as the model sees them."""

    handle: ModelHandle
    patches: Tensor  # [B, P, L]
    image_size: tuple[int, int]  # height and width of the pictures, in pixels


@dataclass(frozen=True)
class Mel:
    """Spectrograms and the length that was asked for; `seconds` is None where all of it counts."""

    mel: Tensor  # [B, T, bands], natural log
    seconds: float | None


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


def latent_samples(latent: dict[str, Any], config: SoundingConfig) -> Tensor:
    """The samples [B, 8, T/4, 16] of a LATENT.

    Raises:
        ValueError: it is another model's latent (a picture's, say), empty, or not finite.
    """
    samples = latent["samples"]
    channels, bands = config.vae.latent_channels, config.latent_bands
    shape = tuple(samples.shape)
    if len(shape) != 4 or shape[1] != channels or shape[3] != bands or 0 in shape:
        raise ValueError(
            f"latent has shape {shape}, but [B, {channels}, frames, {bands}] is expected; connect Sounding Empty "
            "Latent or Sounding Encode Audio, with the same model."
        )
    if not samples.isfinite().all():
        raise ValueError("latent has values that are not finite, but numbers are expected; check the node before.")
    return samples


def latent_seconds(latent: dict[str, Any], config: SoundingConfig) -> float | None:
    """The length that was asked for when the latent was made, or None if its frames say otherwise by now.

    Latents come in whole steps of the network, so they are longer than asked; a core node between that cuts or
    joins latents makes the old length wrong.
    """
    seconds = latent.get("seconds")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        return None
    return float(seconds) if config.latent_frames(seconds) == latent["samples"].shape[2] else None


def with_samples(latent: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    """A copy of a LATENT with other samples: outputs of nodes are shared, so they are never edited."""
    return {**latent, "samples": samples, "type": "audio"}
