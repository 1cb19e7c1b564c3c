"""Patch and query encoders trained against each other, for models that bring no CLIP and CLAP (section 3.3).

Three contrastive terms of the form of equation 5: a patch-level one, in which a query must put its attention on the
objects that it names; a region-level one, patches pooled by an object's mask against every object's caption; and a
scene-level one, all patches pooled against the queries of the batch. Queries are sentences or, for a model with audio
queries (table 3, v), what a scene sounds like; then there is no region-level term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.encoders.audio import ClapAudioQuery
from sounding.model import SoundingModel
from sounding.utils.fields import Checked

from ..engine.objective import Objective
from ..engine.settings import Temperature, Weight

MOST_OBJECTS = 4  # of an item


@dataclass(frozen=True)
class EncodersSettings(Checked):
    """`temperature` of the contrastive terms, and the weights of two of them beside the patch-level one."""

    temperature: Temperature = 0.05
    region_weight: Weight = 1.0
    scene_weight: Weight = 0.25


@dataclass(frozen=True)
class Seen:
    """The objects that can be seen in a batch of all processes."""

    owner: Tensor  # [N] the image that each is in
    coverage: Tensor  # [N, P]
    labels: Tensor  # [N]
    captions: Tensor  # [objects, L] embeddings of the captions of all objects


def attention_loss(query: Tensor, patches: Tensor, coverage: Tensor) -> Tensor:
    """Cross-entropy of dot-product attention against where the named objects are.

    query [N, L], patches [N, P, L], coverage [N, P] with some of it above 0.
    """
    scores = (patches.float() @ query.float()[:, :, None])[..., 0] / query.shape[-1] ** 0.5
    target = coverage / coverage.sum(dim=-1, keepdim=True)
    return -(target * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


class EncodersObjective(Objective):
    """Learns the model's patch and query encoders in place; `captions` are those of all objects by their labels."""

    def __init__(self, model: SoundingModel, settings: EncodersSettings, captions: list[str]):
        super().__init__()
        self.temperature, self.captions = settings.temperature, captions
        self.weights = {"attention": 1.0, "region": settings.region_weight, "scene": settings.scene_weight}
        self.patches, self.query, self.config = model.patches, model.query, model.config
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> EncodersObjective:
        """Batch statistics stay as they came: batches are small, and their images are not what users will show."""
        super().train(mode)
        for module in self.patches.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        side, cells = self.patches.config.image_size, self.patches.config.grid**2
        return {
            "image": torch.zeros(1, side, side, 3, device=device),
            "grids": torch.ones(1, MOST_OBJECTS, cells, device=device),
            "labels": torch.zeros(1, MOST_OBJECTS, dtype=torch.long, device=device),
            "sounding": torch.ones(1, MOST_OBJECTS, dtype=torch.bool, device=device),
            "caption": [self.captions[0]],
            "form": ["{}"],
            "waveform": torch.zeros(1, self.config.train_samples, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of image [B, H, W, 3], grids [B, 4, P], labels [B, 4] (-1: no object), sounding [B, 4], caption or
        waveform [B, samples], and forms of sentences; top1 is the share of objects whose caption is nearest to them.
        """
        patches, features = self.see(batch["image"])
        asked = gather(self._queries(batch))  # [B, L]
        # Objects of all processes together: how many a process has varies, and the loss is a mean over all.
        grids, labels, sounding = (gather(batch[name]) for name in ("grids", "labels", "sounding"))
        named = (grids * sounding[..., None]).amax(dim=1)  # [B, P]
        attention = attention_loss(asked, patches, named + 1e-6)
        scene = contrastive_loss(patches.mean(dim=1), asked, self.temperature)
        losses = {"attention": attention, "scene": scene}
        if not isinstance(self.query, ClapAudioQuery):
            visible = (labels >= 0) & (grids.sum(dim=-1) > 0.2)  # nearly hidden objects teach nothing
            captions = self.captions_of(batch)  # [objects, L]
            seen = Seen(visible.nonzero()[:, 0], grids[visible], labels[visible], captions)
            losses["attention"] = attention + attention_loss(captions[seen.labels], patches[seen.owner], seen.coverage)
            similar = functional.normalize(pool(patches, seen), dim=-1) @ functional.normalize(captions, dim=-1).T
            losses["region"] = functional.cross_entropy(similar / self.temperature, seen.labels)
            losses["top1"] = (similar.argmax(-1) == seen.labels).float().mean()
            losses |= self.more_losses(batch, features, seen)
        total = sum(
            (weight * losses[name] for name, weight in self.weights.items() if name in losses),
            torch.zeros_like(scene),
        )
        return {"loss": total, **losses}

    def see(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, P, L] of all processes' images, and the tower's features [B, P, C] behind them, which only
        objectives that build on this one need: here the patches again.
        """
        patches = gather(self.patches(picture).float())
        return patches, patches

    def more_losses(self, batch: dict[str, Any], features: Tensor, seen: Seen) -> dict[str, Tensor]:
        """Further losses, weighed by `weights`; for objectives that build on this one."""
        return {}

    def _queries(self, batch: dict[str, Any]) -> Tensor:
        """Embeddings [B, L] of the batch's sounds or captions."""
        if isinstance(self.query, ClapAudioQuery):
            return self.query.encode(batch["waveform"], self.config.audio.sample_rate).float()
        return self.query.encode(batch["caption"]).float()

    def captions_of(self, batch: dict[str, Any]) -> Tensor:
        """Embeddings [objects, L] of every object's caption, each in one of the batch's sentence forms."""
        forms = batch["form"]
        assert not isinstance(self.query, ClapAudioQuery)
        sentences = [forms[i % len(forms)].format(caption) for i, caption in enumerate(self.captions)]
        return self.query.encode(sentences).float()


def pool(features: Tensor, seen: Seen) -> Tensor:
    """Mean [N, C] of features [B, P, C] over each object's part of its image."""
    cover = seen.coverage
    return (features[seen.owner] * cover[..., None]).sum(1) / cover.sum(-1, keepdim=True)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of pairs [B, L] (equation 5): every row's partner among all rows, both ways."""
    pairs = functional.normalize(first, dim=-1) @ functional.normalize(second, dim=-1).T / temperature
    same = torch.arange(len(pairs), device=pairs.device)
    return (functional.cross_entropy(pairs, same) + functional.cross_entropy(pairs.T, same)) / 2


def gather(rows: Tensor) -> Tensor:
    """[B, ...] of this process -> [processes * B, ...] of all, with gradients."""
    if not torch.distributed.is_initialized():
        return rows
    from torch.distributed.nn import functional as distributed

    parts = distributed.all_gather(rows.contiguous()) if rows.is_floating_point() else _all_gather(rows)
    return torch.cat(list(parts))


def _all_gather(rows: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return parts
