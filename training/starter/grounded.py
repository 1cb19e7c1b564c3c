"""Grounded diffusion on scenes of cut-outs. It starts from the encoders' own attention and adds items that resemble
what users select: blends of images, single objects, backgrounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sounding.config import SoundingConfig
from sounding.grounding import Grounding
from sounding.model import SoundingModel
from sounding.utils.fields import Range

from ..data.settings import DataSettings
from ..data.shard_folders import Folders
from ..data.shards import Shards
from ..engine.loader import Item
from ..engine.settings import Share
from ..tasks.grounded import GroundedItems, Selected, feature_shards, sounding_labels
from ..tasks.grounded_finetuning import GroundedFinetuningObjective, GroundedFinetuningSettings
from ..tasks.task import Context, Task

VECTOR_SEED = 3  # of `kind_vectors`


@dataclass(frozen=True)
class StarterGroundedSettings(GroundedFinetuningSettings):
    """Settings of the starter's grounded stages.

    Attributes:
        attention_start: attention begins with the dot product that the encoders were trained with, multiplied by this
            number, for encoders with one shared space; 0 begins with random weights.
        mix: up to this share of another item's patches is blended in (Zhang et al. 2018, of inputs alone): users'
            images are never as clearly one thing or the other as scenes of cut-outs are.
        alone: share of the items in which several objects sound that are replaced by an item in which one does: users
            mostly select one object.
        backdrop: share of items that get the mask of the background and another item's sound, since a background
            carries no information about the sound.
        cut: a step sees a random cut of so many latent frames of each item, 0 all of it. What a kind sounds like is
            learned in less time from short cuts, how a sound goes on from whole ones.
        vectors: share of items that get the vectors of the kinds that sound, toward which grounding was trained
            (`starter_conditions`), instead of what grounding makes of an image or a caption: from exact conditions the
            U-Net learns soonest what a kind sounds like.
        vector_noise: to these up to so many standard deviations of noise are added, as grounding is never exact.
        vector_mix: up to this share of another kind's vector is blended in, as grounding is never sure.
    """

    attention_start: Annotated[float, Range(0, 1000)] = 0.0
    mix: Share = 0.0
    alone: Share = 0.0
    backdrop: Share = 0.0
    cut: Annotated[int, Range(0, 4096)] = 0
    vectors: Share = 0.0
    vector_noise: Annotated[float, Range(0, 100)] = 0.0
    vector_mix: Share = 0.0


class StarterGroundedItems(GroundedItems):
    """`GroundedItems` with the starter's augmentations.

    Raises:
        ValueError: see `GroundedItems`; or the features lack backgrounds or single objects that the settings ask for;
            or cuts are of no length that the U-Net takes.
    """

    optional = ("coverage", "backdrop")

    def __init__(self, folder: Folders, model: SoundingModel, settings: StarterGroundedSettings):
        if settings.vectors:
            self.fields = tuple(dict.fromkeys((*self.fields, "labels", "sounding")))
        super().__init__(folder, model, settings)
        self.settings = settings
        self.vectors = kind_vectors(self.kinds, model.config) if settings.vectors else None
        frames, stride = model.config.latent_frames(model.config.train_seconds), model.config.unet.stride
        if settings.cut > frames or settings.cut % stride:
            raise ValueError(
                f"starter_grounded.cut is {settings.cut}, but a multiple of {stride} up to the {frames} latent frames "
                "of the features is expected; give one, or 0 for all of them."
            )
        if settings.backdrop:
            self._check_backdrops()
        self.sounding = _sounding(folder) if settings.alone else []
        self.single = [index for index, count in enumerate(self.sounding) if count == 1]

    @cached_property
    def kinds(self) -> int:
        """One more than the largest label of the features, which need labels for it."""
        rows = self.shards.only("labels")
        return 1 + max(max(rows[index]["labels"], default=0) for index in range(len(rows)))

    def ids(self) -> Sequence[str]:
        """See `NamedItems`.

        Raises:
            ValueError: items take patches or sounds of other clips.
        """
        if self.settings.mix or self.settings.alone or self.settings.backdrop:
            raise ValueError(
                "validation.share holds clips out, but starter_grounded.mix, alone and backdrop take parts of others; "
                "give validation.shards instead, or set those to 0."
            )
        return super().ids()

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """See `GroundedItems`."""
        if self.sounding and self.sounding[index] > 1 and rng.random() < self.settings.alone:
            index = self.single[int(rng.integers(len(self.single)))]
        item = super().item(index, rng)
        if cut := self.settings.cut:
            first = int(rng.integers(item["latents"].shape[1] - cut + 1))
            for name in ("latents", "noise"):
                item[name] = item[name][:, first : first + cut]
        if self.vectors is not None:
            other, noise = self.vectors[int(rng.integers(self.kinds))], rng.standard_normal(len(item["vector"]))
            mixed = item["vector"].lerp(other, self.settings.vector_mix * float(rng.random()))
            spread = self.settings.vector_noise * float(rng.random())
            item["vector"] = mixed + spread * torch.from_numpy(noise.astype(np.float32))
            item["by_vector"] = bool(rng.random() < self.settings.vectors) and item["shown"]
        return item

    def more(self, row: dict[str, Any]) -> Item:
        """See `GroundedItems`; `vector` [D] is the mean of those of the kinds that sound."""
        return {} if self.vectors is None else {"vector": self.vectors[sounding_labels(row)].mean(dim=0)}

    def augment(self, selected: Selected, row: dict[str, Any], rng: np.random.Generator) -> None:
        """See `GroundedItems`."""
        if self.settings.mix:
            others = self.shards.only("frames")[int(rng.integers(len(self)))]["frames"]
            other = others[int(rng.integers(len(others)))].float()
            selected.patches = selected.patches.lerp(other, self.settings.mix * float(rng.random()))
        if self.settings.backdrop and rng.random() < self.settings.backdrop:
            other_sound = self.shards.only("mean", "std")[int(rng.integers(len(self)))]
            selected.mean, selected.std = other_sound["mean"], other_sound["std"]
            behind = self._backdrop(row)
            selected.coverage = within_rectangle(behind, rng) if rng.random() < 0.5 else behind
            selected.by_mask, selected.shown = True, False

    def _check_backdrops(self) -> None:
        """Check that items have masks of backgrounds: all items where some have no masks of objects either, else the
        first one alone, since features of an earlier version have none in any item.

        Raises:
            ValueError: an item has none.
        """
        if (self.shards.index.masked or 0) < len(self):
            for index in range(len(self)):
                self._backdrop(self.shards[index])
        elif len(self):
            self._backdrop(self.shards[0])

    def _backdrop(self, row: dict[str, Any]) -> Tensor:
        if "backdrop" not in row:
            raise ValueError(
                f"Item {row['id']} has no mask of what is no object, but starter_grounded.backdrop asks for it; "
                "prepare the features again from shards with masks, or set it to 0."
            )
        return cast(Tensor, row["backdrop"])


def within_rectangle(coverage: Tensor, rng: np.random.Generator) -> Tensor:
    """What [P] covers of a random rectangle of cells, or all of it where that is nothing."""
    side = round(len(coverage) ** 0.5)
    height, width = (int(extent) for extent in rng.integers(1, side, 2))
    top, left = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
    part = torch.zeros(side, side, dtype=coverage.dtype)
    part[top : top + height, left : left + width] = coverage.view(side, side)[top : top + height, left : left + width]
    return part.flatten() if bool(part.sum() > 1) else coverage


def kind_vectors(kinds: int, config: SoundingConfig) -> Tensor:
    """What conditions of each kind are to be: random numbers of unit variance, [kinds, D]."""
    generator = torch.Generator().manual_seed(VECTOR_SEED)
    return torch.randn(kinds, config.grounding.condition_width, generator=generator)


def _sounding(folder: Folders) -> list[int]:
    """How many objects sound in each item.

    Raises:
        ValueError: there is no item in which a single object sounds.
    """
    described = Shards(folder, ("sounding",))
    counts = [len(described[index]["sounding"]) for index in range(len(described))]
    if 1 not in counts:
        raise ValueError(
            f"starter_grounded.alone asks for items with one sounding object, but {folder} has none; set it to 0."
        )
    return counts


class StarterGroundedObjective(GroundedFinetuningObjective):
    """`GroundedFinetuningObjective` that may start from the encoders' attention."""

    def __init__(self, model: SoundingModel, settings: StarterGroundedSettings):
        super().__init__(model, settings)
        if settings.attention_start:
            start_from_encoders(self.grounding, settings.attention_start)

    def conditions(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See `GroundedObjective`; some items have the vectors of their kinds."""
        condition, attention = super().conditions(batch)
        if "vector" in batch:
            exact = batch["by_vector"] & ~batch["dropped"]
            condition = torch.where(exact[:, None, None], batch["vector"][:, None].to(condition), condition)
        return condition, attention


@torch.no_grad()
def start_from_encoders(grounding: Grounding, sharpness: float = 1.0) -> None:
    """Start with the attention that the encoders were trained for: W_Q and W_K become multiples of the identity.

    A contrastive loss that scored sentences against patches by the plain dot product over sqrt(L) has already
    found where to look (section 3.3 treats the two as one), so grounding starts there instead of from random weights.
    `sharpness` multiplies the scores. The running deviation of the weights is reset.

    Raises:
        ValueError: attention is of another form or width than the encoders' was.
    """
    config, width = grounding.config, grounding.to_query.in_features
    if config.scoring != "dot" or not config.key_width == width == grounding.to_key.in_features:
        raise ValueError(
            f"starter_grounded.attention_start begins with the encoders' dot product of {width} numbers, but grounding "
            f"has {config.scoring} scoring and key_width {config.key_width}; set starter_grounded.attention_start=0, "
            f"or model.grounding.scoring=dot and model.grounding.key_width={width}."
        )
    for projection in (grounding.to_query, grounding.to_key):
        nn.init.eye_(projection.weight)
        projection.weight.mul_(sharpness**0.5)
    grounding.weight_count.zero_()


class StarterGroundedTask(Task[StarterGroundedSettings]):
    """Features of scenes, made once by `python -m training prepare features`."""

    name = "starter_grounded"
    learns_unet = True
    settings = StarterGroundedSettings

    def objective(
        self, model: SoundingModel, settings: StarterGroundedSettings, context: Context
    ) -> StarterGroundedObjective:
        """See `Task`."""
        return StarterGroundedObjective(model, settings)

    def items(
        self, model: SoundingModel, settings: StarterGroundedSettings, data: DataSettings
    ) -> StarterGroundedItems:
        """See `Task`."""
        return StarterGroundedItems(feature_shards(data), model, settings)

    def learns_grounding(self, settings: StarterGroundedSettings) -> bool:
        """See `Task`."""
        return not settings.keep_grounding
