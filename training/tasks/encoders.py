"""Patch and query encoders against each other, for models that bring no CLIP and CLAP (section 3.3).

Three contrastive terms (equation 5's form): a patch-level one, in which a query must put its attention on the
objects that it is of; a region-level one, patches pooled by an object's mask against every object's caption; and a
scene-level one, all patches pooled against the queries of the batch. Queries are sentences or, for a model that is
asked by sound (table 3, v), what a scene sounds like; then there is no region-level term. A tower that starts from
published weights can be held close to what it knew (`imagenet.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range

from ..data.object_set import ObjectSet
from ..data.scenes import (
    TEMPLATES,
    as_tensors,
    background_photographs,
    make_scene,
    part_of,
    scene_caption,
    scene_rng,
    scene_sound,
)
from ..engine.loader import Item
from ..engine.objective import Objective
from ..engine.settings import Temperature, Weight
from ..starter.imagenet import Memory, Objects, load_imagenet, split

MOST_OBJECTS = 4


@dataclass(frozen=True)
class EncodersSettings(Checked):
    """`imagenet` starts the patch tower from published weights; `frozen_blocks` of it then stay as they are, and the
    rest learns at `tower_rate` times the rate of what is new. The weights of `imagenet.Memory`'s losses, all 0 for a
    tower that may forget: `kept_weight`, `known_weight` and `recalled_weight`.
    """

    imagenet: bool = False
    frozen_blocks: Annotated[int, Range(0, 100)] = 3
    tower_rate: Weight = 1.0
    kept_weight: Weight = 0.0
    known_weight: Weight = 0.0
    recalled_weight: Weight = 0.0
    temperature: Temperature = 0.05
    region_weight: Weight = 1.0
    scene_weight: Weight = 0.25

    @property
    def remembers(self) -> bool:
        """Whether the tower is held to what it knew."""
        return max(self.kept_weight, self.known_weight, self.recalled_weight) > 0


class SceneItems:
    """Scenes of stamps, each drawn anew: the set has no end, `count` only names an epoch.

    `backdrops` gives with each what a tower that is held to what it knew is asked of (`EncodersSettings.remembers`).
    """

    def __init__(self, stamps: ObjectSet, model: SoundingModel, count: int = 100_000, *, backdrops: bool = False):
        self.stamps, self.config, self.count, self.backdrops = stamps, model.config, count, backdrops
        self.heard = isinstance(model.query, ClapAudioQuery)

    def __len__(self) -> int:
        return self.count

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """picture [H, W, 3], grids [4, P] and labels [4] of up to four objects (label -1: none), sounding [4],
        caption, and a sentence form for the objects' own names; waveform [samples] where queries are sounds; a seed
        and part of a photograph without objects [H, W, 3] where backdrops are asked for.
        """
        patches = self.config.patches
        size = (patches.image_size, patches.image_size)
        scene = make_scene(self.stamps, scene_rng("train", index), size=size)
        image, masks = as_tensors(scene)
        grids = torch.zeros(MOST_OBJECTS, patches.grid**2)
        grids[: len(masks)] = mask_to_grid(masks, size, patches)
        labels = torch.full((MOST_OBJECTS,), -1)
        labels[: len(masks)] = torch.tensor(scene.labels)
        sounding = torch.zeros(MOST_OBJECTS, dtype=torch.bool)
        sounding[list(scene.sounding)] = True
        sound = {"waveform": scene_sound(self.stamps, scene, self.config.train_samples, rng)} if self.heard else {}
        item = {
            "id": f"scene {index}",
            "picture": image[0],
            "grids": grids,
            "labels": labels,
            "sounding": sounding,
            "caption": scene_caption(self.stamps, scene, rng),
            "form": str(rng.choice(TEMPLATES)),
            **sound,
        }
        if self.backdrops:
            item["seed"] = torch.tensor(int(rng.integers(2**31)))
            backdrop = part_of(background_photographs(), rng, size)
            item["backdrop"] = torch.from_numpy(np.asarray(backdrop) / np.float32(255))
        return item


def attention_loss(query: Tensor, patches: Tensor, coverage: Tensor) -> Tensor:
    """Cross-entropy of dot-product attention against where the named objects are.

    query [N, L], patches [N, P, L], coverage [N, P] with some of it above 0.
    """
    scores = (patches.float() @ query.float()[:, :, None])[..., 0] / query.shape[-1] ** 0.5
    target = coverage / coverage.sum(dim=-1, keepdim=True)
    return -(target * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


class EncodersObjective(Objective):
    """Learns the model's patch and query encoders in place."""

    def __init__(self, model: SoundingModel, settings: EncodersSettings, names: list[str]):
        super().__init__()
        self.settings, self.names = settings, names
        self.patches, self.query, self.config = model.patches, model.query, model.config
        self.requires_grad_(True)
        if settings.imagenet:
            load_imagenet(self.patches)
        if model.config.patches.tower == "timm":
            for frozen in split(self.patches.tower.trunk, settings.frozen_blocks)[0]:
                frozen.requires_grad_(False)
        self.rates = {"patches.tower.trunk.": settings.tower_rate}
        self.memory: Memory | None = None
        if settings.remembers:
            if not settings.imagenet or model.config.patches.tower != "timm" or isinstance(self.query, ClapAudioQuery):
                raise ValueError(
                    "encoders has weights for what the tower remembers, but that needs imagenet: true, a timm tower "
                    "and a query by text; set kept_weight, known_weight and recalled_weight to 0."
                )
            self.memory = Memory(self.patches.tower.trunk, settings.frozen_blocks, names)

    def train(self, mode: bool = True) -> EncodersObjective:
        """Batch statistics stay as they came: batches are small, and scenes are not what users will show."""
        super().train(mode)
        for module in self.patches.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        side, cells = self.patches.config.image_size, self.patches.config.grid**2
        return {
            "picture": torch.zeros(1, side, side, 3, device=device),
            "grids": torch.ones(1, MOST_OBJECTS, cells, device=device),
            "labels": torch.zeros(1, MOST_OBJECTS, dtype=torch.long, device=device),
            "sounding": torch.ones(1, MOST_OBJECTS, dtype=torch.bool, device=device),
            "caption": [self.names[0]],
            "form": [TEMPLATES[0]],
            "seed": torch.zeros(1, dtype=torch.long, device=device),
            "backdrop": torch.zeros(1, side, side, 3, device=device),
            "waveform": torch.zeros(1, self.config.train_samples, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `SceneItems`; top1 is the share of objects whose caption is nearest to their patches."""
        patches, features = self._see(batch["picture"])
        asked = gather(self._queries(batch))  # [B, L]
        # Objects of all processes together: how many a process has varies, and the loss is a mean over all.
        grids, labels, sounding = (gather(batch[name]) for name in ("grids", "labels", "sounding"))
        named = (grids * sounding[..., None]).amax(dim=1)  # [B, P]
        attention = attention_loss(asked, patches, named + 1e-6)
        scene = contrastive_loss(patches.mean(dim=1), asked, self.settings.temperature)
        losses = {"attention": attention, "scene": scene}
        if not isinstance(self.query, ClapAudioQuery):
            seen = (labels >= 0) & (grids.sum(dim=-1) > 0.2)  # nearly hidden objects teach nothing
            everything = self._names(batch["form"])  # [classes, L]
            owner, cover, labels = seen.nonzero()[:, 0], grids[seen], labels[seen]
            losses["attention"] = attention + attention_loss(everything[labels], patches[owner], cover)
            pooled = (patches[owner] * cover[..., None]).sum(1) / cover.sum(-1, keepdim=True)  # [objects, L]
            similar = functional.normalize(pooled, dim=-1) @ functional.normalize(everything, dim=-1).T
            losses["region"] = functional.cross_entropy(similar / self.settings.temperature, labels)
            losses["top1"] = (similar.argmax(-1) == labels).float().mean()
            if self.memory is not None:
                pooled = (features[owner] * cover[..., None]).sum(1) / cover.sum(-1, keepdim=True)  # [objects, C]
                losses |= self.memory.losses(
                    self.patches.tower,
                    Objects(features, pooled, labels),
                    everything,
                    self.patches.preprocess(batch["backdrop"]),
                    temperature=self.settings.temperature,
                    generator=torch.Generator(patches.device).manual_seed(int(batch["seed"][0])),
                )
        weights = {"attention": 1.0, "region": self.settings.region_weight, "scene": self.settings.scene_weight}
        weights |= {name: getattr(self.settings, f"{name}_weight") for name in ("kept", "known", "recalled")}
        total = sum((weights[name] * losses[name] for name in weights if name in losses), torch.zeros_like(scene))
        return {"loss": total, **losses}

    def _see(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, P, L] of all processes' pictures and, where the tower is held, its features [B, P, C]."""
        if self.memory is None:
            patches = gather(self.patches(picture).float())
            return patches, patches
        features = gather(self.patches.features(self.patches.preprocess(picture)).float())
        return self.patches.tower.head(features).float(), features

    def _queries(self, batch: dict[str, Any]) -> Tensor:
        """[B, L] of the batch's sounds or captions."""
        if isinstance(self.query, ClapAudioQuery):
            return self.query.encode(batch["waveform"], self.config.audio.sample_rate).float()
        return self.query.encode(batch["caption"]).float()

    def _names(self, forms: list[str]) -> Tensor:
        """[classes, L] of every object's own name, each in one of the batch's sentence forms."""
        assert not isinstance(self.query, ClapAudioQuery)
        sentences = [forms[i % len(forms)].format(name) for i, name in enumerate(self.names)]
        return self.query.encode(sentences).float()


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
