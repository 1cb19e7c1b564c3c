"""Taggers of AudioSet's sound events as models of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sounding.audio.resampling import resample


class Tagger:
    """A network with a head over AudioSet's classes, as a `features.FeatureModel`.

    Several events may be true of a sound, so what the head gives is meant for a sigmoid.
    """

    seconds = 10.0  # AudioSet's clips

    def __init__(self, network: nn.Module, head: nn.Module, classes: tuple[str, ...], name: str, rate: int, width: int):
        self.network, self.head, self.classes, self.name = network.eval(), head, classes, name
        self.rate, self.width = rate, width

    @torch.inference_mode()
    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """See `features.FeatureModel.embed`."""
        embedded: Tensor = self.network(resample(waveform, rate, self.rate))
        return embedded

    @torch.inference_mode()
    def logits(self, embeddings: Tensor) -> Tensor:
        """See `features.FeatureModel.logits`."""
        scores: Tensor = self.head(embeddings)
        return scores
