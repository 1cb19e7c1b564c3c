"""New objects get conditions of their own, and known ones keep theirs."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sounding.config import SoundingConfig
from sounding.grounding import Grounding, match_moments
from sounding.model import SoundingModel
from training.data.features import FeatureSource
from training.data.object_set import ObjectSet
from training.data.shard_writer import make_shards
from training.engine.loader import collate
from training.engine.loop import train
from training.engine.settings import LoopConfig
from training.finetune.grounding import GroundingAdaptationItems, GroundingAdaptationObjective
from training.finetune.rehearsal import as_objects
from training.finetune.scenes import ObjectSceneSource

NEW = 2


@pytest.fixture(scope="module")
def model(tiny_config: SoundingConfig) -> SoundingModel:
    grounding = dataclasses.replace(tiny_config.grounding, norm_matching=True)
    torch.manual_seed(1)
    model = SoundingModel(dataclasses.replace(tiny_config, grounding=grounding)).requires_grad_(False)
    model.grounding.condition_length.fill_(0.4)
    return model


@pytest.fixture(scope="module")
def items(
    model: SoundingModel, stamps_data: ObjectSet, tmp_path_factory: pytest.TempPathFactory
) -> GroundingAdaptationItems:
    root = tmp_path_factory.mktemp("conditions")
    objects = as_objects(stamps_data)
    size = model.config.patches.image_size
    scenes = ObjectSceneSource(objects[:NEW], objects[NEW:], count=48, seconds=model.config.train_seconds, size=size)
    make_shards(scenes, root / "raw")
    make_shards(FeatureSource(root / "raw", model), root / "features")
    return GroundingAdaptationItems(root / "features", NEW)


def by_masks(grounding: Grounding, items: GroundingAdaptationItems) -> tuple[Tensor, Tensor]:
    """Conditions of all items at no usual length, and their labels."""
    grounding.train()
    found = []
    for row in items.rows:
        weights = match_moments(row["coverage"][None].clamp(min=1e-6), grounding.weight_std)
        found.append(grounding.gather(weights[:, None], row["patches"][None])[0, 0].detach())
    return torch.stack(found), torch.tensor([row["label"] for row in items.rows])


def test_items_are_of_one_object_or_of_known_ones(items: GroundingAdaptationItems) -> None:
    labels = {row["label"] for row in items.rows}
    assert labels >= {0, 1, 2}
    assert len(items) < 48  # a mix with a new object is nobody's
    item = items.item(0, np.random.default_rng(0))
    assert item["patches"].shape == (25, 16)
    assert item["query"].shape == (16,)


def test_places_begin_where_conditions_are_and_at_the_usual_length(
    model: SoundingModel, items: GroundingAdaptationItems
) -> None:
    found, labels = by_masks(model.grounding, items)
    objective = GroundingAdaptationObjective(model, items, NEW)
    places = torch.cat([objective.places.detach(), objective.known])
    for label in (0, 1, 2):
        mean = found[labels == label].mean(dim=0)
        expected = 0.4 * functional.normalize(mean, dim=0)
        torch.testing.assert_close(places[label], expected, atol=1e-5, rtol=1e-4)
    model.requires_grad_(False)


def test_no_place_is_where_backdrops_are(model: SoundingModel, items: GroundingAdaptationItems) -> None:
    found, labels = by_masks(model.grounding, items)
    first, second = (found[labels == label].mean(dim=0) for label in (0, 1))
    alike = first + 0.3 * second  # which the first seems to be
    grounding = dataclasses.replace(model.config.grounding, backdrops=True)
    other = SoundingModel(dataclasses.replace(model.config, grounding=grounding)).requires_grad_(False)
    other.load_state_dict(model.state_dict() | {"grounding.condition_backdrop": 0.3 * alike})
    objective = GroundingAdaptationObjective(other, items, NEW)
    torch.testing.assert_close(objective.known[-1], 0.4 * functional.normalize(alike, dim=0))
    places = objective.places.detach()
    assert float((places @ alike).max()) < 1e-3
    torch.testing.assert_close(places.norm(dim=-1), torch.full((NEW,), 0.4))
    assert len(objective.known) == len(GroundingAdaptationObjective(model, items, NEW).known) + 1
    model.requires_grad_(False)


def test_nothing_is_lost_before_the_first_step(model: SoundingModel, items: GroundingAdaptationItems) -> None:
    objective = GroundingAdaptationObjective(model, items, NEW).train()
    batch = collate([items.item(i, np.random.default_rng(i)) for i in range(16)])
    found = objective(batch)
    assert found["kept"].item() == pytest.approx(0, abs=1e-10)
    places = torch.cat([objective.places, objective.known]).detach().numpy() / 0.4
    between = np.linalg.norm(places[:NEW, None] - places[None], axis=-1)
    gaps = [max(0.0, 1 - between[i, j]) ** 2 for i in range(NEW) for j in range(3) if i != j]
    assert found["apart"].item() == pytest.approx(sum(gaps) / NEW, rel=1e-4)
    found["loss"].backward()
    learnt = {name for name, value in objective.named_parameters() if value.grad is not None}
    assert learnt == {"places", "grounding.to_value.weight"} | {
        f"grounding.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    model.requires_grad_(False)
    model.zero_grad()


def test_new_objects_move_apart_and_known_ones_stay(
    model: SoundingModel, items: GroundingAdaptationItems, tmp_path: Path
) -> None:
    items = copy.deepcopy(items)  # the random tower sees little; let it see which object is where
    drawn = torch.Generator().manual_seed(5)
    looks = torch.randn(3, 16, generator=drawn)
    for row in items.rows:
        noise = 0.5 * torch.randn(25, 16, generator=drawn)
        row["patches"] = noise + row["coverage"][:, None] * (looks[row["label"]] + 2 * looks[2])
    before, labels = by_masks(model.grounding, items)
    objective = GroundingAdaptationObjective(model, items, NEW)
    loop = LoopConfig(steps=200, batch=16, lr=3e-3, warmup=5, precision="fp32", log_every=50)
    train(objective, items, loop, tmp_path)
    after, _ = by_masks(model.grounding, items)

    def nearest(found: Tensor) -> float:
        """Share of new items nearest to the mean of their own object's."""
        means = torch.stack([found[labels == label].mean(dim=0) for label in range(3)])
        fresh = (labels >= 0) & (labels < NEW)
        return float((torch.cdist(found[fresh], means).argmin(dim=-1) == labels[fresh]).float().mean())

    assert nearest(after) > 0.9
    assert nearest(after) > nearest(before)
    length = after[(labels >= 0) & (labels < NEW)].norm(dim=-1).mean()
    assert 0.3 < float(length) < 0.5  # the usual 0.4
    known = labels == NEW
    moved = (after - before)[known].norm(dim=-1).mean()
    assert float(moved) < 0.25 * float((after - before)[labels < NEW].norm(dim=-1).mean())
