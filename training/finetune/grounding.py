"""Grounding is adapted to new objects before the U-Net learns their sounds.

The patch tower sees something in a new object, but its condition lies near the mean condition or on that of an object
that looks alike, and the U-Net would have to tell them apart before grounding does. So grounding's value projection and
MLP are trained first, alone, within seconds: each new object gets a condition of its own at the usual distance from the
mean, and rehearsal objects keep theirs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.model import SoundingModel

from ..data.shards import Shards
from ..engine.loader import Item
from ..engine.objective import Objective
from ..tasks.grounded import conditions_of, mask_weights, sounding_labels

NEAR = 0.3  # distance within which two conditions count as the same, in usual distances from the mean
KEPT = 15.0  # weight of the change of rehearsal objects' conditions
GAP = 1.0  # least distance of new objects' conditions from all others, likewise


class GroundingAdaptationItems:
    """Features of scenes, with the one object that sounds in each."""

    def __init__(self, folder: Path, new: int):
        """Objects with numbers below `new` are new."""
        shards = Shards(folder, ("id", "patches", "queries", "coverage", "labels", "sounding"))
        self.rows: list[dict[str, Any]] = []
        for index in range(len(shards)):
            row = shards[index]
            heard = sounding_labels(row)
            if len(heard) == 1 or min(heard) >= new:  # mixes with new objects are left to the U-Net's training
                label = heard[0] if len(heard) == 1 else -1
                kept = {name: row[name].float() for name in ("queries", "coverage")}
                self.rows.append({"id": row["id"], "patches": row["patches"][0].float(), "label": label, **kept})

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """patches [P, L], coverage [P], query [L] of one random caption, label (-1: several objects sound)."""
        row = self.rows[index]
        query = row["queries"][int(rng.integers(len(row["queries"])))]
        return {**{name: row[name] for name in ("id", "patches", "coverage", "label")}, "query": query}


class GroundingAdaptationObjective(Objective):
    """Learns the value projection and the MLP of the model's grounding in place; it needs a grounding with
    `norm_matching`, whose statistics hold the usual distance.
    """

    known: Tensor  # [objects - new, D] conditions of rehearsal objects, and one of backgrounds where there is one

    def __init__(self, model: SoundingModel, items: GroundingAdaptationItems, new: int):
        super().__init__()
        self.new = new
        self.grounding = model.grounding
        self.before = copy.deepcopy(self.grounding).requires_grad_(False)
        for part in (self.grounding.to_value, self.grounding.mlp):
            part.requires_grad_(True)
        places, backdrop = self._places(items), self._backdrop()
        self.places = nn.Parameter(self._beside(places[:new], backdrop))
        self.register_buffer("known", torch.cat([places[new:], backdrop]))

    def train(self, mode: bool = True) -> GroundingAdaptationObjective:
        """Conditions are those of the MLP, without norm matching."""
        super().train(mode)
        self.before.train()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of `GroundingAdaptationItems`; nearest is the share of new objects whose condition is nearest to their
        own target.
        """
        labels = batch["label"]
        fresh = (labels >= 0) & (labels < self.new)
        losses: dict[str, Tensor] = {}
        places = torch.cat([self._at_length(self.places), self.known])
        kept, near, hits = [], [], []
        for weights in (mask_weights(self.before, batch["coverage"]), self._asked(batch)):
            found = conditions_of(self.grounding, weights, batch["patches"])
            with torch.no_grad():
                was = conditions_of(self.before, weights, batch["patches"])
            kept.append((found - was)[~fresh].square().sum(dim=-1))
            apart = torch.cdist(found[fresh], places) / self._length()
            own = apart.gather(1, labels[fresh][:, None])[:, 0]
            near.append(functional.cross_entropy(-apart.square() / (2 * NEAR**2), labels[fresh], reduction="none"))
            near.append(own.square())
            hits.append((apart.argmin(dim=-1) == labels[fresh]).float())
        losses["kept"] = KEPT * _mean(kept) / self._length().square()
        losses["near"] = 2 * _mean(near)
        between = torch.cdist(places[: self.new], places) / self._length()
        between = between + 2 * GAP * torch.eye(self.new, len(places), device=places.device)
        losses["apart"] = (GAP - between).clamp(min=0).square().sum(dim=-1).mean()
        return {"loss": sum(losses.values(), torch.zeros_like(losses["near"])), **losses, "nearest": _mean(hits)}

    def _length(self) -> Tensor:
        return self.before.condition_length.float().clamp(min=1e-6)

    def _backdrop(self) -> Tensor:
        """[1, D] or [0, D]: the condition of backgrounds, where grounding has one."""
        backdrop = self.before.condition_backdrop
        if backdrop is None:
            return self.before.condition_mean.new_zeros(0, len(self.before.condition_mean))
        return self._at_length(self.before.condition_mean.float() + backdrop.float()[None])

    def _beside(self, places: Tensor, others: Tensor) -> Tensor:
        """Conditions [N, D] without their components along `others`, at the usual distance."""
        mean = self.before.condition_mean.float()
        for other in functional.normalize(others - mean, dim=-1):
            shared = ((places - mean) @ other).clamp(min=0)
            places = self._at_length(places - shared[:, None] * other)
        return places.clone()

    def _at_length(self, conditions: Tensor) -> Tensor:
        """[N, D] at the usual distance from the mean one."""
        mean = self.before.condition_mean.float()
        return mean + functional.normalize(conditions - mean, dim=-1) * self._length()

    @torch.no_grad()
    def _asked(self, batch: dict[str, Any]) -> Tensor:
        """Weights [B, P] of captions, mean over heads."""
        return self.before.attend(batch["query"], batch["patches"]).mean(dim=1)

    @torch.no_grad()
    def _places(self, items: GroundingAdaptationItems) -> Tensor:
        """[objects, D]: the mean of every object's conditions now, at the usual distance."""
        self.before.train()
        rows = [row for row in items.rows if row["label"] >= 0]
        device = self.before.null.device
        labels = torch.tensor([row["label"] for row in rows], device=device)
        batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in ("coverage", "patches")}
        found = conditions_of(self.before, mask_weights(self.before, batch["coverage"]), batch["patches"])
        objects = max(self.new, int(labels.max()) + 1)
        total = found.new_zeros(objects, found.shape[1]).index_add_(0, labels, found)
        count = labels.bincount(minlength=objects)
        places = total / count.clamp(min=1)[:, None]
        places[count == 0] = self.before.condition_mean.float()
        return self._at_length(places)


def _mean(parts: list[Tensor]) -> Tensor:
    """Over all values of all parts; 0 without any."""
    values = torch.cat(parts)
    return values.sum() / max(1, len(values))
