"""Class-feature replay: the last layers before a mask's condition learn the classes that ImageNet's head knows.

Scenes show one or two images of an object, photographs show any: the dogs of ImageNet are of 118 breeds, the one of the
scenes is of one. This stage follows the first grounded training and changes the patch tower's last layer and
projection, and the grounding's value projection and MLP. Patches of scenes stay what they were, so that attention and
U-Net need not be trained again; features found by inversion of ImageNet's head (`inversion.py`) get the embedding that
their object's caption has and the condition that the object has in scenes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.encoders.text import OpenClipQuery
from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range

from ..engine.objective import Objective
from ..engine.settings import FilePath, Share, Temperature, Weight
from ..tasks.encoders import MOST_OBJECTS
from ..tasks.grounded import conditions_of, mask_weights
from .imagenet import class_table
from .inversion import SIDE, blocks

LOSSES = ("kept", "region", "replay", "single", "other", "sound")
BLEND = 0.3  # largest share of other cells that an inverted object's cells are mixed with
CLARITY = (0.7, 1.2)  # range of the factor by which their distance from the mean cell changes


@dataclass(frozen=True)
class ReplaySettings(Checked):
    """Settings of class-feature replay.

    Attributes:
        scenes: how many are drawn, once.
        inverted: how many objects are made by feature inversion, once.
        inverted_per_item: so many of them come with each scene.
        cache: a folder that keeps both; "" makes them anew in each run.
        temperature: of the cross-entropies against captions.
        kept_weight: of the change of scenes' patches.
        region_weight: of the cross-entropy of objects in scenes against all captions.
        replay_weight: of the cross-entropy of inverted objects against all captions.
        single_weight: of the distance of single objects' conditions from their object's mean condition.
        other_weight: of the change of any other selection's condition.
        sound_weight: of the distance of inverted objects' conditions from those of the same object in scenes.
        mix: up to this share of another image's patches is blended in, see `StarterGroundedSettings`.
        keep_patches: patches stay as they are and conditions alone learn, once patches are settled.
    """

    scenes: Annotated[int, Range(1, 1_000_000)] = 3000
    inverted: Annotated[int, Range(1, 10_000_000)] = 20_000
    inverted_per_item: Annotated[int, Range(1, 1024)] = 4
    cache: FilePath = ""
    temperature: Temperature = 0.05
    kept_weight: Weight = 2.0
    region_weight: Weight = 1.0
    replay_weight: Weight = 1.0
    single_weight: Weight = 1.0
    other_weight: Weight = 1.0
    sound_weight: Weight = 1.0
    mix: Share = 0.4
    keep_patches: bool = False


class LastLayers(nn.Module):
    """The patch tower's last layer and its projection: cells [..., C] -> patches [..., L]."""

    def __init__(self, tower: Any):
        super().__init__()
        self.conv_head, self.bn2, self.head = tower.trunk.conv_head, tower.trunk.bn2, tower.head

    def features(self, cells: Tensor) -> Tensor:
        """[..., C] -> [..., F], what ImageNet's head takes the mean of."""
        flat = cells.flatten(0, -2)[:, :, None, None]
        return cast(Tensor, self.bn2(self.conv_head(flat))).flatten(1).unflatten(0, cells.shape[:-1])

    def forward(self, cells: Tensor) -> Tensor:
        """[..., C] -> [..., L]."""
        return cast(Tensor, self.head(self.features(cells)))


class ReplayObjective(Objective):
    """Learns in place; `names` are the captions of all objects in the order of their labels.

    Raises:
        ValueError: the model's patch tower is not EfficientNet-Lite0, or it is not asked by text, or its grounding
            has no `norm_matching`.
    """

    classes: Tensor  # [1000, objects], 1 for the objects that belong to a class of ImageNet
    asked: Tensor  # [objects, L] their captions, of unit length
    usual: Tensor  # [objects, D] mean condition of each object alone
    counts: Tensor  # [objects] how many they are the mean of

    def __init__(self, model: SoundingModel, settings: ReplaySettings, names: list[str]):
        super().__init__()
        config = model.config
        if (
            config.patches.model != "tf_efficientnet_lite0"
            or not isinstance(model.query, OpenClipQuery)
            or not config.grounding.norm_matching
        ):
            raise ValueError(
                f"The class-feature replay got a model with the patch tower {config.patches.model}, but one with "
                "tf_efficientnet_lite0, a query by text and grounding.norm_matching is expected; leave this stage out."
            )
        self.settings, self.config = settings, config
        self.patches, self.grounding = model.patches, model.grounding
        self.last = LastLayers(self.patches.tower)
        for part in (self.last.conv_head, self.last.head):
            part.requires_grad_(not settings.keep_patches)
        for part in (self.grounding.to_value, self.grounding.mlp):
            part.requires_grad_(True)
        self.rates = {"patches.tower.trunk.": 0.2, "grounding.": 0.5}
        # As they came.
        self.old_last = copy.deepcopy(self.last).requires_grad_(False)
        self.old_grounding = copy.deepcopy(self.grounding).requires_grad_(False)
        with torch.no_grad():
            asked = functional.normalize(model.query.encode(names).float(), dim=-1)
        for name, value in {"classes": class_table(names).T, "asked": asked}.items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("usual", torch.zeros(len(names), config.grounding.condition_width))
        self.register_buffer("counts", torch.zeros(len(names)))

    def train(self, mode: bool = True) -> ReplayObjective:
        """Batch statistics stay as they are; the groundings give conditions without norm matching."""
        super().train(mode)
        for part in (self.patches, self.old_last):
            part.eval()
        self.old_grounding.train()
        return self

    def example(self, device: torch.device) -> dict[str, Any]:
        """A batch of one."""
        cells = self.config.patches.grid**2
        width = self.last.conv_head.in_channels
        seen = torch.zeros(1, cells, width, device=device)
        labels = torch.full((1, MOST_OBJECTS), -1, dtype=torch.long, device=device)
        labels[:, 0] = 0
        return {
            "cells": seen,
            "backdrop": seen,
            "grids": torch.ones(1, MOST_OBJECTS, cells, device=device),
            "labels": labels,
            "made": torch.zeros(1, self.settings.inverted_per_item, SIDE**2, width, device=device),
            "class": torch.zeros(1, self.settings.inverted_per_item, dtype=torch.long, device=device),
            "seed": torch.zeros(1, dtype=torch.long, device=device),
        }

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `ReplayItems`; top1 and replay_top1 are the shares of objects in scenes and of inverted ones whose
        caption is nearest to them.
        """
        device = batch["cells"].device
        generator = torch.Generator(device).manual_seed(int(batch["seed"][0]))
        with torch.autocast(device.type, enabled=False):  # what is kept is kept to the last digit
            cells = torch.cat([batch["cells"], batch["backdrop"]]).float()  # [2 B, P, C]
            with torch.no_grad():
                was = self.old_last(cells)
            now = was if self.settings.keep_patches else self.last(cells)
            scenes = len(batch["cells"])  # of photographs it may change its mind
            losses = {"kept": (now - was)[:scenes].square().mean() / was[:scenes].var()}
            seen = (batch["labels"] >= 0) & (batch["grids"].sum(dim=-1) > 0.2)  # nearly hidden ones teach nothing
            owner, labels = seen.nonzero()[:, 0], batch["labels"][seen]
            weights = mask_weights(self.grounding, batch["grids"][seen])
            pooled = torch.einsum("np,npl->nl", weights, now[owner])
            losses |= self._named("region", "top1", pooled, functional.one_hot(labels, len(self.asked)).float())

            shown = self.last(self._weakened(batch["made"].flatten(0, 1).float(), cells, generator))  # [N, K, L]
            right = self.classes[batch["class"].flatten()]  # objects of one class are all right: cow, white cow, bull
            losses |= self._named("replay", "replay_top1", shown.mean(dim=1), right)

            shown, now = shown.detach(), now.detach()  # conditions do not bend the embeddings
            losses["single"] = self._single(now, was, owner, weights, labels, generator)
            losses["other"] = self._other(now, was, generator)
            losses["sound"] = self._sound(shown, now, right, generator)
        total = sum(
            (getattr(self.settings, f"{name}_weight") * losses[name] for name in LOSSES),
            torch.zeros((), device=device),
        )
        return {"loss": total, **losses}

    def _named(self, loss: str, share: str, pooled: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of embeddings [N, L] against all captions above the least that it can be, and the share of
        those whose nearest caption is right. `right` is [N, objects], 1 for all right ones.
        """
        similar = functional.normalize(pooled, dim=-1) @ self.asked.T
        shares = right / right.sum(dim=-1, keepdim=True)
        least = right.sum(dim=-1).log().mean()
        entropy = functional.cross_entropy(similar / self.settings.temperature, shares) - least
        first = right.gather(1, similar.argmax(dim=-1, keepdim=True)).mean()
        return {loss: entropy, share: first.detach()}

    def _weakened(self, made: Tensor, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Inverted cells [N, K, C] at another distance from the mean cell, mixed with cells of the images at hand."""
        count, device = len(made), made.device
        draw = partial(torch.rand, generator=generator, device=device)
        low, high = CLARITY
        mean = cells.mean(dim=(0, 1))
        made = mean + (low + (high - low) * draw(count, 1, 1)) * (made - mean)
        others = cells.flatten(0, 1)[torch.randint(cells[..., 0].numel(), (count,), generator=generator, device=device)]
        return made.lerp(others[:, None], BLEND * draw(count, 1, 1))

    def _off(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared distance of conditions [N, D], of their usual one from the mean."""
        return (found - wanted).square().sum(dim=-1).mean() / self.grounding.condition_length.float().square()

    def _targets(self) -> Tensor:
        """[objects, D]: each object's usual condition, at the usual length at least."""
        mean, length = self.grounding.condition_mean.float(), self.grounding.condition_length.float()
        away = self.usual - mean
        return mean + away * (length / away.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(min=1)

    def _single(
        self, now: Tensor, was: Tensor, owner: Tensor, weights: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        with torch.no_grad():
            before = conditions_of(self.old_grounding, weights, was[owner])
            self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self.counts.dtype))
            gone = torch.zeros_like(self.usual).index_add_(0, labels, before - self.usual[labels])
            self.usual += gone / self.counts.clamp(min=1)[:, None]
        others = now[torch.randint(len(now), (len(owner),), generator=generator, device=now.device)]
        share = self.settings.mix * torch.rand(len(owner), 1, 1, generator=generator, device=now.device)
        share = share * (torch.rand(share.shape, generator=generator, device=now.device) < 0.5)
        return self._off(
            conditions_of(self.grounding, weights, now[owner].lerp(others, share)), self._targets()[labels]
        )

    def _other(self, now: Tensor, was: Tensor, generator: torch.Generator) -> Tensor:
        """Selections at random, from a few cells to all: several objects, parts, backgrounds."""
        count, cells, _ = now.shape
        chosen = torch.rand(count, cells, generator=generator, device=now.device)
        part = torch.rand(count, 1, generator=generator, device=now.device)
        weights = chosen.square() * (chosen.roll(1, dims=-1) < part) + 1e-4
        weights = weights / weights.sum(dim=-1, keepdim=True)
        with torch.no_grad():
            before = conditions_of(self.old_grounding, weights, was)
        return self._off(conditions_of(self.grounding, weights, now), before)

    def _sound(self, shown: Tensor, now: Tensor, right: Tensor, generator: torch.Generator) -> Tensor:
        """Inverted patches [N, K, L] somewhere in an image in which nothing else is selected."""
        count, most = len(shown), now.shape[1]
        at = blocks(count, self.config.patches.grid, generator, now.device)
        drawn = torch.randint(len(now), (count,), generator=generator, device=now.device)
        patches = now[drawn].scatter(1, at[:, :, None].expand_as(shown), shown)
        weights = torch.full((count, most), 1e-6, device=now.device).scatter(1, at, 1.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        similar = functional.normalize(shown.mean(dim=1), dim=-1) @ self.asked.T / self.settings.temperature
        equal = similar.masked_fill(right * self.counts == 0, -torch.inf)  # among equals the one that it is nearest to
        known = (right * self.counts).any(dim=-1)
        if not known.any():
            return torch.zeros((), device=now.device)
        wanted = equal[known].softmax(dim=-1) @ self._targets()
        return self._off(conditions_of(self.grounding, weights[known], patches[known]), wanted)
