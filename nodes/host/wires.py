"""The types of our own that travel between nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

if TYPE_CHECKING:
    from .loaded import LoadedModel

ModelType = io.Custom("SOUNDING_MODEL")
PatchesType = io.Custom("SOUNDING_PATCHES")
ConditionType = io.Custom("SOUNDING_CONDITION")
MelType = io.Custom("SOUNDING_MEL")
SegmenterType = io.Custom("SOUNDING_SEGMENTER")
SceneType = io.Custom("SOUNDING_SCENE")
SEEDS = "seeds"  # in AUDIO and LATENT of nodes that know them: one per sound; other nodes leave it out


@dataclass(frozen=True)
class Patches:
    """Images as patch embeddings, and the model that made them."""

    model: LoadedModel
    embeddings: Tensor  # [B, P, L]
    image: Tensor  # [B, H, W, 3] 0..1, what they were made from

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(frozen=True)
class Mel:
    """Mel spectrograms and the length that was asked for; `seconds` is None where all frames count."""

    mel: Tensor  # [B, T, bands], natural log
    seconds: float | None
    loop: bool = False  # the end goes on with the beginning
    seeds: list[int] | None = None  # that they were sampled from, where that is known
