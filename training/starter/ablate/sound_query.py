"""Queries by sound, for the audio-image attention of table 3 (v): in training the clip's own sound asks the patches.

The starter has no audio tower, so a small one is trained on the scenes: as CLAP (Elizalde et al. 2023), by a
contrastive loss between sounds and their sentences, whose embeddings stay as they are. A second folder of features then
holds each clip's own embedding in place of those of its sentences. At test time masks select, so nothing else changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.mel import MelSpectrogram, normalize
from sounding.config import AudioConfig

from ...data.shard_format import Kind, Sample, known_of
from ...data.shard_writer import make_shards
from ...data.shards import DESCRIBED, Shards
from ...data.source import Source, hash_json
from ...engine.loader import Item
from ...engine.loop import train
from ...engine.objective import Objective
from ...engine.settings import LoopConfig
from ...evaluate.models.classifier import Classifier

WIDTH = 16  # of the encoder's first layer
TEMPERATURE = 0.07  # CLIP's at its start
STORED = ("patches", "queries", "coverage", "backdrop", "mean", "std")


class SoundItems:
    """Log-mels of clips, each with the embedding of one of its sentences."""

    def __init__(self, scenes: Path, features: Path):
        self.sounds, self.features = Shards(scenes, ("id", "waveform")), Shards(features, ("queries",))
        self.to_mel = MelSpectrogram(AudioConfig())

    def __len__(self) -> int:
        return len(self.sounds)

    def mel(self, index: int) -> Tensor:
        """[T, 64]."""
        return self.to_mel(normalize(self.sounds[index]["waveform"][None].float()))[0]

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """mel [T, 64] and query [L]."""
        queries = self.features[index]["queries"].float()
        return {
            "id": self.sounds[index]["id"],
            "mel": self.mel(index),
            "query": queries[int(rng.integers(len(queries)))],
        }


class SoundQueryObjective(Objective):
    """The symmetric contrastive loss of equation 5 between sounds and sentences of one batch."""

    def __init__(self, encoder: Classifier):
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss, and how often a sound's own sentence is the nearest of its batch."""
        sounds = functional.normalize(self.encoder(batch["mel"]).float(), dim=-1)
        scores = sounds @ functional.normalize(batch["query"], dim=-1).T / TEMPERATURE
        own = torch.arange(len(scores), device=scores.device)
        loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
        return {"loss": loss, "top1": (scores.argmax(dim=-1) == own).float().mean()}


class SoundQuerySource(Source):
    """Features with the sound's own embedding as the only query, as long as those of sentences are on average."""

    kind: Kind = "features"

    def __init__(self, scenes: Path, features: Path, encoder: Classifier):
        self.items = SoundItems(scenes, features)
        self.features = Shards(features, (*DESCRIBED, *STORED))
        self.encoder = encoder.eval()
        index = next(iter(self.features.indices.values()))
        self.model, self.inputs = index.model, index.settings
        lengths = [self.features.only("queries")[number]["queries"].float().norm(dim=-1) for number in range(len(self))]
        self.length = float(torch.cat(lengths).mean())

    def __len__(self) -> int:
        return len(self.features)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        weights = [[name, value.double().sum().item()] for name, value in self.encoder.state_dict().items()]
        return {"from": "sound queries", "features": self.inputs, "encoder": hash_json(weights)}

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {position}"

    @torch.inference_mode()
    def make(self, position: int) -> Sample:
        """See Source."""
        row = self.features[position]
        query = functional.normalize(self.encoder(self.items.mel(position)[None]), dim=-1) * self.length
        arrays = {name: row[name].numpy() for name in STORED} | {"queries": query.half().numpy()}
        return Sample(**known_of(row), features=arrays)


def make_sound_queries(scenes: Path, features: Path, loop: LoopConfig, folder: Path, out: Path) -> Path:
    """Train the encoder in `folder`, or read what is there of an earlier run, and write the features to `out`.

    Args:
        scenes: raw shards.
        features: of the same scenes, in the same order.
        loop: of the training.
        folder: of the encoder's training.
        out: the new features.
    """
    torch.manual_seed(loop.seed)
    items = SoundItems(scenes, features)
    encoder = Classifier(items.item(0, np.random.default_rng(0))["query"].shape[0], WIDTH)
    train(SoundQueryObjective(encoder), items, loop, folder)
    make_shards(SoundQuerySource(scenes, features, encoder.cpu()), out)
    return out
