"""Models that embed sounds and images in one space, for figures of how well a sound fits its image (AVC, IB, CS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

# Figures by the keys that `AudioVisualModel.metric` may have, and what the field calls them.
METRICS = {"avc": "AVC", "ib": "IB", "cs": "CS"}


@runtime_checkable
class AudioVisualModel(Protocol):
    """What metrics ask of a model of sounds and images.

    The figure is the mean cosine of a sound and its item's image, times `scale`.
    """

    name: str  # what it is, with the file's digest
    metric: str  # "avc" (OpenL3), "ib" (ImageBind) or "cs" (the clip-score): the figure's key in report.json
    scale: float  # what the published metric multiplies the cosine by
    rate: int  # Hz of the sounds it expects
    seconds: float  # of a sound that suits it
    width: int  # D

    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        """Sounds [B, samples] at `rate` Hz -> [B, D]."""

    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """Images [3, H, W] 0..1 of any sizes, and the masks [H, W] 0..1 of their selected objects -> [B, D].

        Models that know no masks ignore them.

        Raises:
            ValueError: one of them cannot be used; they come again one by one then.
        """


class SoundSide:
    """The sounds' side of an audio-visual model, as a `features.FeatureModel` without classes."""

    classes: tuple[str, ...] = ()

    def __init__(self, model: AudioVisualModel):
        self.model = model
        self.name, self.rate, self.seconds, self.width = model.name, model.rate, model.seconds, model.width

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """See `features.FeatureModel.embed`."""
        return self.model.embed_sounds(waveform, rate)

    def logits(self, embeddings: Tensor) -> Tensor:
        """[B, 0]."""
        return embeddings[:, :0]
