"""The patch tower's published weights, and the losses that hold it to what it knew."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sounding.config import PatchConfig, QueryConfig, SoundingConfig
from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel
from training.engine.objective import Objective
from training.engine.optimization import parameter_groups
from training.starter.encoders import StarterEncodersObjective, StarterEncodersSettings
from training.starter.imagenet import Objects, Retention, known_classes, load_imagenet

CAPTIONS = ["a cow", "a white cow", "a saw", "a dog"]
COFFEE = {504, 967, 968}  # coffee mug, espresso, cup


@pytest.fixture(scope="module")
def patches() -> PatchEncoder:
    half = (0.5, 0.5, 0.5)
    config = PatchConfig("timm", "tf_efficientnet_lite0", width=16, grid=7, image_size=224, mean=half, std=half)
    encoder = PatchEncoder(dataclasses.replace(config, quick_gelu=False)).eval()
    load_imagenet(encoder)
    return encoder


@pytest.fixture
def memory(patches: PatchEncoder) -> Retention:
    return Retention(patches.tower.trunk, 5, CAPTIONS).train()


def photograph() -> Tensor:
    from skimage import data

    return torch.from_numpy(data.coffee()[None] / np.float32(255))


def losses(memory: Retention, tower: Any, labels: Tensor, **changes: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(2, 49, 1280, generator=generator)
    pooled = torch.rand(len(labels), 1280, generator=generator)
    objects = Objects(**{"features": features, "pooled": pooled, "labels": labels, **changes})
    names = torch.randn(len(CAPTIONS), 16, generator=generator)
    backdrops = torch.randn(1, 3, 224, 224, generator=generator)
    return memory.losses(tower, objects, names, backdrops, temperature=0.1, generator=generator)


@torch.no_grad()
def test_the_head_still_knows_a_cup_of_coffee(patches: PatchEncoder, memory: Retention) -> None:
    features = patches.tower.trunk.forward_features(patches.preprocess(photograph()))
    guesses = memory.head(features.mean(dim=(2, 3))).topk(2).indices[0].tolist()
    assert set(guesses) <= COFFEE


def test_a_tower_that_did_not_change_has_forgotten_nothing(patches: PatchEncoder, memory: Retention) -> None:
    tower = patches.tower
    assert losses(memory, tower, torch.tensor([0, 3]))["distillation"].item() == pytest.approx(0, abs=1e-5)
    last = tower.trunk.conv_head.weight
    before = last.detach().clone()
    with torch.no_grad():
        last.mul_(1.5)
    changed = losses(memory, tower, torch.tensor([0, 3]))["distillation"]
    changed.backward()
    assert changed.item() > 0.01
    assert float(last.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in memory.parameters())
    with torch.no_grad():
        last.copy_(before)
    tower.zero_grad()


def test_known_objects_are_asked_of_the_head_and_others_are_not(patches: PatchEncoder, memory: Retention) -> None:
    generator = torch.Generator().manual_seed(2)
    pooled = torch.rand(3, 1280, generator=generator)
    labels = torch.tensor([0, 2, 3])
    cow, _, saw, dog = known_classes(CAPTIONS)
    assert cow == [345]  # ox
    assert saw == []
    assert len(dog) > 100
    chances = (pooled.double() @ memory.head.weight.double().T + memory.head.bias.double()).softmax(-1)
    expected = -(chances[0, cow].sum().log() + chances[2, dog].sum().log()) / 2
    found = losses(memory, patches.tower, labels, pooled=pooled)["classification"]
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(losses(memory, patches.tower, torch.tensor([2]))["classification"]) == pytest.approx(0, abs=1e-5)


def test_imagined_objects_are_what_the_head_takes_them_for(patches: PatchEncoder, memory: Retention) -> None:
    """Features around the tower's own mean, as they come; their class is the head's first guess, nearly always."""
    rows = torch.rand(400, 1280, generator=torch.Generator().manual_seed(3)).pow(4)
    memory._observe(rows[None])
    np.testing.assert_allclose(memory.mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(memory.covariance, np.cov(rows.T.numpy(), bias=True), atol=1e-5)
    inverted: list[Tensor] = []

    def project(features: Tensor) -> Tensor:
        inverted.append(features)
        return features[:, :16]

    pooled = rows.view(20, 20, 1280).mean(dim=1)
    names = torch.randn(len(CAPTIONS), 16, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        _, right = memory._replay(project, 10 * pooled, names, generator)
        moved = memory.head(inverted[0]) - memory.head(memory.mean)
    torch.testing.assert_close(right.sum(-1), torch.ones(len(right)))
    assert {tuple(row) for row in right.tolist()} == {(0.5, 0.5, 0, 0), (0, 0, 0, 1)}
    classes = memory.classes
    of_cow, of_dog = (moved[:, classes[label] > 0].amax(-1) for label in (0, 3))
    assert ((of_cow > of_dog) == (right[:, 0] > 0)).float().mean() > 0.95


def test_parameters_learn_at_their_share_of_the_rate() -> None:
    module = Objective()
    module.slow, module.fast = nn.Linear(2, 2), nn.Linear(2, 3)
    module.slow.bias.requires_grad_(False)
    module.rates = {"slow.": 0.1}
    groups = {group["share"]: group["params"] for group in parameter_groups(module)}
    assert [len(groups[share]) for share in (0.1, 1.0)] == [1, 2]
    assert groups[0.1][0] is module.slow.weight
    assert len(parameter_groups(nn.Linear(2, 2))) == 1


def test_only_a_tower_from_imagenet_can_be_held_to_it(tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config)
    with pytest.raises(ValueError, match="need imagenet: true"):
        StarterEncodersObjective(model, StarterEncodersSettings(distillation_weight=1.0), CAPTIONS)


def test_encoders_learn_with_what_they_remember(tiny_config: SoundingConfig, patches: PatchEncoder) -> None:
    query = QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=8, context_length=16, tokenizer="")
    config = dataclasses.replace(tiny_config, patches=patches.config, query=query)
    settings = StarterEncodersSettings(
        imagenet=True,
        frozen_blocks=5,
        tower_rate=0.1,
        distillation_weight=1.0,
        classification_weight=1.0,
        replay_weight=0.3,
    )
    objective = StarterEncodersObjective(SoundingModel(config), settings, CAPTIONS).train()
    batch = objective.example(torch.device("cpu"))
    found = objective(batch)
    terms = {"attention": 1.0, "region": 1.0, "scene": 0.25, "distillation": 1.0, "classification": 1.0, "replay": 0.3}
    expected = sum(weight * found[name].item() for name, weight in terms.items())
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    found["loss"].backward()
    trunk = objective.patches.tower.trunk
    assert trunk.blocks[4][0].conv_pw.weight.grad is None
    assert trunk.blocks[5][0].conv_pw.weight.grad is not None
    assert objective.patches.tower.head.proj.weight.grad.isfinite().all()
