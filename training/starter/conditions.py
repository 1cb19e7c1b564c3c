"""Grounding before the U-Net: conditions learn to tell kinds apart, each toward a random vector of its own.

Diffusion alone teaches grounding slowly which patches mean what: the error of a noisy prediction says little of the
kind. Here the kind is known, so that a few minutes are enough, and the U-Net begins with conditions that mean
something. What is no object has the zero vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.grounding import Grounding
from sounding.model import SoundingModel

from ..data.settings import DataSettings
from ..data.shard_folders import Folders
from ..data.shards import Shards
from ..engine.loader import Item
from ..engine.objective import Objective
from ..engine.settings import Share, Weight
from ..tasks.grounded import conditions, feature_shards, selection_example, sounding_labels
from ..tasks.task import Built, Context, Task
from .grounded import (
    StarterGroundedItems,
    StarterGroundedSettings,
    kind_vectors,
    start_from_encoders,
)
from .imagenet import PatchFeatures, class_vectors
from .replayed import OBSERVED, spread_over

SHARPNESS = 20.0  # by which cosines with the kinds' vectors are multiplied before the softmax


@dataclass(frozen=True)
class StarterConditionsSettings(StarterGroundedSettings):
    """`StarterGroundedSettings`, of which those of diffusion say nothing here, and two more.

    Attributes:
        distance: weight of the squared distance from the kind's vector beside the cross-entropy.
        replay: share of items in which what is selected by a mask looks as one of ImageNet's classes does
            (`imagenet.PatchFeatures`), drawn anew each time: a kind may have a hundred classes, and features have a
            frame or two per scene.
    """

    distance: Weight = 20.0
    replay: Share = 0.0


class StarterConditionsItems(StarterGroundedItems):
    """`StarterGroundedItems` with the kinds that sound, as shares [kinds] that sum up to 1.

    Raises:
        ValueError: see `StarterGroundedItems`; or features that do not say what sounds.
    """

    fields = (*StarterGroundedItems.fields, "labels", "sounding")

    def __init__(self, folder: Folders, model: SoundingModel, settings: StarterConditionsSettings):
        super().__init__(folder, model, settings)
        self.replay = settings.replay
        if self.replay:
            self.classes, self.likely = _classes(self.shards, folder)
            self.directions = class_vectors(model.patches.tower.head.proj.weight.detach().float())
            frames = self.shards.only("frames")
            seen = [frames[place]["frames"][0] for place in spread_over(len(self), OBSERVED)]
            self.like = PatchFeatures.of(seen)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """See `StarterGroundedItems`, and `kinds` [kinds]."""
        item = super().item(index, rng)
        if self.replay and rng.random() < self.replay:
            kind = int(rng.choice(len(self.classes), p=self.likely))
            number = self.classes[kind][int(rng.integers(len(self.classes[kind])))]
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            vector, coverage = self.directions[[number]], item["coverage"]
            cells = self.like.draw(vector, len(coverage), generator)[0]
            item["patches"] = item["patches"].lerp(cells, coverage[:, None])
            item["kinds"] = functional.one_hot(torch.tensor(kind), self.kinds).float()
            item["by_mask"], item["shown"] = True, True
        return item

    def more(self, row: dict[str, Any]) -> Item:
        """See `GroundedItems`."""
        shares = functional.one_hot(torch.tensor(sounding_labels(row)), self.kinds).float().mean(dim=0)
        return {**super().more(row), "kinds": shares}


class StarterConditionsObjective(Objective):
    """Teaches the values and the MLP of the model's grounding in place; attention stays as the encoders have it."""

    vectors: Tensor  # [kinds, D], numbers of unit variance
    ratios: ClassVar[Mapping[str, str]] = {"top1": "shown"}

    def __init__(self, model: SoundingModel, settings: StarterConditionsSettings, kinds: int):
        super().__init__()
        self.grounding, self.distance, self.config = model.grounding, settings.distance, model.config
        if settings.attention_start:
            start_from_encoders(self.grounding, settings.attention_start)
        for name, parameter in self.grounding.named_parameters():
            parameter.requires_grad_(name.startswith(("to_value", "mlp")))
        nn.init.eye_(self.grounding.to_value.weight)
        vectors = kind_vectors(kinds, model.config)
        if model.config.grounding.activation == "softmax":
            start_from_vectors(self.grounding, vectors)
        self.register_buffer("vectors", vectors, persistent=False)

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        kinds = torch.ones(1, len(self.vectors), device=device) / len(self.vectors)
        return {**selection_example(self.config, device), "kinds": kinds}

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `StarterConditionsItems`, scalars: "kind", the cross-entropy of the kinds by the cosine with their
        vectors, "distance" from these, and "top1", the share of items whose likeliest kind sounds, over those in which
        something does.
        """
        condition = conditions(self.grounding, {**batch, "dropped": torch.zeros_like(batch["dropped"])})[0][:, 0]
        kinds = batch["kinds"] * batch["shown"][:, None]  # a backdrop is of no kind
        cosines = functional.normalize(condition, dim=1) @ functional.normalize(self.vectors, dim=1).T
        kind = -(kinds * (SHARPNESS * cosines).log_softmax(dim=1)).sum(dim=1).mean()
        distance = functional.mse_loss(condition, kinds @ self.vectors)
        right = kinds.gather(1, cosines.argmax(dim=1, keepdim=True)) > 0
        losses = {"loss": kind + self.distance * distance, "kind": kind, "distance": distance}
        return losses | {"top1": right.float().mean(), "shown": batch["shown"].float().mean()}


def _classes(shards: Shards, folder: Folders) -> tuple[list[list[int]], np.ndarray]:
    """ImageNet's classes of each kind that features were made for, and how likely a kind is drawn: by the root of the
    number of its classes, so that kinds of many are seen in most of their looks and do not crowd out the others.

    Raises:
        ValueError: the features name no classes.
    """
    found = next(iter(shards.indices.values())).settings.get("classes")
    if not isinstance(found, list) or not any(found):
        raise ValueError(
            f"starter_conditions.replay draws ImageNet's classes, but {folder} names none; make the features by "
            "`python -m training starter train`, or set it to 0."
        )
    likely = np.sqrt([len(classes) for classes in found])
    return found, likely / likely.sum()


@torch.no_grad()
def start_from_vectors(grounding: Grounding, vectors: Tensor) -> None:
    """Make an MLP with a softmax one that says how likely each kind is, and gives the mean of their vectors [kinds, D]
    by that. What is of no kind has the units that are left, and the zero vector. The vectors learn no more.

    Raises:
        ValueError: the MLP has no unit more than there are kinds.
    """
    last = cast(nn.Linear, grounding.mlp[2])
    if last.in_features <= len(vectors):
        raise ValueError(
            f"model.grounding.mlp_width is {last.in_features}, but one more than the {len(vectors)} kinds are expected "
            "at least; give more."
        )
    last.weight.zero_()
    last.bias.zero_()
    last.weight[:, : len(vectors)] = vectors.T
    last.requires_grad_(False)


class StarterConditionsTask(Task[StarterConditionsSettings]):
    """Features of scenes, as `StarterGroundedTask` has them."""

    name = "starter_conditions"
    settings = StarterConditionsSettings

    def objective(
        self, model: SoundingModel, settings: StarterConditionsSettings, context: Context
    ) -> StarterConditionsObjective:
        """See `Task`."""
        return StarterConditionsObjective(model, settings, max(1, len(context.captions)))

    def build(
        self, model: SoundingModel, settings: StarterConditionsSettings, data: DataSettings, fresh: frozenset[str]
    ) -> Built:
        """See `Task`; the features know how many kinds there are."""
        items = self.items(model, settings, data)
        return Built(StarterConditionsObjective(model, settings, items.kinds), items)

    def items(
        self, model: SoundingModel, settings: StarterConditionsSettings, data: DataSettings
    ) -> StarterConditionsItems:
        """See `Task`."""
        return StarterConditionsItems(feature_shards(data), model, settings)

    def learns_grounding(self, settings: StarterConditionsSettings) -> bool:
        """See `Task`."""
        return True
