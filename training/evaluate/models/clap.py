"""CLAP's audio tower as a model of features (Wu et al., 2023)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sounding.convert.clap import OWN_BUFFERS, clap_from_state
from sounding.encoders.audio import RATE, ClapAudioQuery
from sounding.weights.reading import laid_out

from .loading import fitted

# Tensors of CLAP alone, in LAION's files and in transformers' folders.
MARKS = ("audio_branch.patch_embed.proj.weight", "audio_model.audio_encoder.patch_embed.proj.weight")


class ClapFeatures:
    """A CLAP audio tower, published or of a checkpoint that was trained with audio queries; it has no classes."""

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


def read_clap(state: dict[str, Tensor], path: Path, name: str) -> ClapFeatures:
    """CLAP's audio tower from the tensors of LAION's file or of a transformers folder.

    Raises:
        WeightsError: the tensors are not those of a CLAP, or of a fused one.
    """
    with laid_out(path):
        converted = clap_from_state(state, path, "audio")
        config, tensors = converted.config, converted.tensors
        return ClapFeatures(fitted(lambda: ClapAudioQuery(config), tensors, OWN_BUFFERS), name)
