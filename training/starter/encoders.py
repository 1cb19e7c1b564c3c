"""The starter's encoders, on scenes of cut-outs: the patch tower starts from ImageNet's weights and is held to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel
from sounding.utils.fields import Range

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
from ..engine.settings import Weight
from ..tasks.encoders import MOST_OBJECTS, EncodersObjective, EncodersSettings, Seen, gather, pool
from .imagenet import Objects, Retention, load_imagenet, split


@dataclass(frozen=True)
class StarterEncodersSettings(EncodersSettings):
    """Settings of the contrastive objective, and of what keeps the patch tower from forgetting ImageNet.

    Attributes:
        imagenet: the patch tower starts from published ImageNet weights.
        frozen_blocks: so many of the tower's blocks stay frozen.
        tower_rate: the learning rate of the tower's other blocks, of the rate of new layers.
        distillation_weight, classification_weight, replay_weight: of the losses of `imagenet.Retention`; all 0 for a
            tower that may forget.
    """

    imagenet: bool = False
    frozen_blocks: Annotated[int, Range(0, 100)] = 3
    tower_rate: Weight = 1.0
    distillation_weight: Weight = 0.0
    classification_weight: Weight = 0.0
    replay_weight: Weight = 0.0

    @property
    def retains(self) -> bool:
        """Whether the tower is held to its ImageNet weights' answers."""
        return max(self.distillation_weight, self.classification_weight, self.replay_weight) > 0


class SceneItems:
    """Scenes of stamps, each drawn anew: the set has no end, `count` only names an epoch.

    `backdrops` gives with each what a tower that is held to what it knew is asked of (`EncodersSettings.retains`).
    """

    def __init__(self, stamps: ObjectSet, model: SoundingModel, count: int = 100_000, *, backdrops: bool = False):
        self.stamps, self.config, self.count, self.backdrops = stamps, model.config, count, backdrops
        self.heard = isinstance(model.query, ClapAudioQuery)

    def __len__(self) -> int:
        return self.count

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """image [H, W, 3], grids [4, P] and labels [4] of up to four objects (label -1: none), sounding [4],
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
            "image": image[0],
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


class StarterEncodersObjective(EncodersObjective):
    """`EncodersObjective` with a patch tower from ImageNet.

    Raises:
        ValueError: losses against forgetting for a tower that did not start from ImageNet's weights.
    """

    def __init__(self, model: SoundingModel, settings: StarterEncodersSettings, captions: list[str]):
        super().__init__(model, settings, captions)
        if settings.imagenet:
            load_imagenet(self.patches)
        if model.config.patches.tower == "timm":
            for frozen in split(self.patches.tower.trunk, settings.frozen_blocks)[0]:
                frozen.requires_grad_(False)
        self.rates = {"patches.tower.trunk.": settings.tower_rate}
        self.weights |= {
            name: getattr(settings, f"{name}_weight") for name in ("distillation", "classification", "replay")
        }
        self.retention: Retention | None = None
        if settings.retains:
            if not settings.imagenet or model.config.patches.tower != "timm" or isinstance(self.query, ClapAudioQuery):
                raise ValueError(
                    "starter_encoders has weights of losses against forgetting, but these need imagenet: true, a timm "
                    "tower and a query by text; set distillation_weight, classification_weight and replay_weight to 0."
                )
            self.retention = Retention(self.patches.tower.trunk, settings.frozen_blocks, captions)

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        batch = super().example(device)
        return {
            **batch,
            "seed": torch.zeros(1, dtype=torch.long, device=device),
            "backdrop": torch.zeros_like(batch["image"]),
        }

    def see(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """See `EncodersObjective`; the features are those before the projection where the tower is held to them."""
        if self.retention is None:
            return super().see(picture)
        features = gather(self.patches.features(self.patches.preprocess(picture)).float())
        return self.patches.tower.head(features).float(), features

    def more_losses(self, batch: dict[str, Any], features: Tensor, seen: Seen) -> dict[str, Tensor]:
        """See `EncodersObjective`: the losses of `imagenet.Retention`."""
        if self.retention is None:
            return {}
        return self.retention.losses(
            self.patches.tower,
            Objects(features, pool(features, seen), seen.labels),
            seen.captions,
            self.patches.preprocess(batch["backdrop"]),
            temperature=self.temperature,
            generator=torch.Generator(features.device).manual_seed(int(batch["seed"][0])),
        )
