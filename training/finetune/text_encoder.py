"""Text-encoder adaptation: captions of new objects get embeddings whose attention is on these objects.

Patch tower and attention stay frozen, so a caption's embedding is all that has to be found (equation 4). Embeddings of
sentences about rehearsal objects are held to what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sounding.encoders.patches import mask_to_grid
from sounding.encoders.text import OpenClipQuery
from sounding.grounding import Grounding
from sounding.model import SoundingModel

from ..data.shards import Shards
from ..engine.loader import Item
from ..engine.objective import Objective


class TextEncoderItems:
    """Raw samples (image, masks, captions) as patches, coverage and a caption; the first `count` of a folder."""

    def __init__(self, folder: Path, model: SoundingModel, known: Sequence[str], count: int):
        self.known = list(known)
        shards = Shards(folder, ("captions", "images", "masks", "sounding"))
        self.rows: list[tuple[Tensor, Tensor, list[str]]] = []
        for start in range(0, min(count, len(shards)), 32):
            samples = [shards[i] for i in range(start, min(start + 32, count, len(shards)))]
            patches = model.see(torch.cat([sample["images"] for sample in samples]) / 255).cpu()
            for seen, sample in zip(patches, samples, strict=True):
                masks = (sample["masks"][list(sample["sounding"])] / 255).amax(dim=0, keepdim=True)
                size = (sample["images"].shape[1], sample["images"].shape[2])
                # Inference tensors cannot take part in a backward pass.
                self.rows.append((seen.clone(), mask_to_grid(masks, size, model.config.patches)[0], sample["captions"]))

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """patches [P, L], coverage [P], one of the captions, and the number of one sentence about known objects."""
        patches, coverage, captions = self.rows[index]
        return {
            "patches": patches,
            "coverage": coverage,
            "caption": captions[int(rng.integers(len(captions)))],
            "known": int(rng.integers(max(1, len(self.known)))),
        }


class TextEncoderObjective(Objective):
    """Learns the model's text encoder in place: attention on the named objects, known sentences as before."""

    before: Tensor  # [S, L], what known sentences were encoded as

    def __init__(self, model: SoundingModel, known: Sequence[str], keep: float = 1.0):
        super().__init__()
        assert isinstance(model.query, OpenClipQuery)
        self.query, self.known, self.keep = model.query, list(known), keep
        with torch.no_grad():
            before = self.query.encode(self.known) if known else torch.zeros(0, model.config.query.width)
        self.register_buffer("before", before.float(), persistent=False)
        self.requires_grad_(True)
        self._grounding = [model.grounding]  # frozen, so no child module

    def place(self, device: torch.device) -> None:
        """Move the grounding, which is no child module."""
        self._grounding[0].to(device)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Attention against coverage, and the squared error of known sentences relative to their spread."""
        (grounding,), coverage = self._grounding, batch["coverage"]
        asked = self.query.encode(batch["caption"]).float()
        attention = attention_divergence(grounding, asked, batch["patches"], coverage)
        losses = {"loss": attention, "attention": attention}
        if self.known:
            rows = batch["known"]
            now = self.query.encode([self.known[i] for i in rows.tolist()]).float()
            spread = (self.before - self.before.mean(dim=0)).square().mean().clamp(min=1e-6)
            losses["moved"] = (now - self.before[rows]).square().mean() / spread
            losses["loss"] = attention + self.keep * losses["moved"]
        return losses


def attention_divergence(grounding: Grounding, query: Tensor, patches: Tensor, coverage: Tensor) -> Tensor:
    """How far attention weights, mean over heads, are from `coverage` [B, P]; query [B, L], patches [B, P, L]."""
    weights = grounding.attend(query, patches).mean(dim=1)
    target = (coverage + 1e-6) / (coverage + 1e-6).sum(dim=-1, keepdim=True)
    return nn.functional.kl_div(weights.clamp(min=1e-9).log(), target, reduction="batchmean")
