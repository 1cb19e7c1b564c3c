"""The types of our own that travel between nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

if TYPE_CHECKING:
    from .loaded import ModelHandle

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
