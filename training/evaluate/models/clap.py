"""CLAP's audio tower as a model of features (Wu et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from sounding.encoders.audio import RATE, ClapAudioQuery


class ClapFeatures:
    """The CLAP audio tower of a checkpoint that was trained with audio queries; it has no classes."""

    rate, seconds = RATE, 10.0
    classes: tuple[str, ...] = ()

    def __init__(self, query: ClapAudioQuery, name: str):
        self.query, self.name, self.width = query.eval(), name, query.config.width

    @torch.inference_mode()
    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """See `features.FeatureModel.embed`; only the first 10 s are heard."""
        return self.query.encode(waveform, rate)

    def logits(self, embeddings: Tensor) -> Tensor:
        """[B, 0]."""
        return embeddings[:, :0]
