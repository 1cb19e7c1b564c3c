"""The patch tower's published weights, and features of ImageNet's classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.config import PatchConfig, QueryConfig, SoundingConfig
from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel
from training.data.object_set import ObjectEntry
from training.starter.encoders import StarterEncodersObjective, StarterEncodersSettings
from training.starter.imagenet import PatchFeatures, class_vectors, known_classes, load_imagenet, published_head

CAPTIONS = ["a cow", "a bull", "a saw", "a dog"]
COFFEE = {504, 967, 968}  # coffee mug, espresso, cup


@pytest.fixture(scope="module")
def patches() -> PatchEncoder:
    half = (0.5, 0.5, 0.5)
    config = PatchConfig("timm", "tf_efficientnet_lite0", width=16, grid=7, image_size=224, mean=half, std=half)
    encoder = PatchEncoder(dataclasses.replace(config, quick_gelu=False)).eval()
    load_imagenet(encoder)
    return encoder


def photograph() -> Tensor:
    from skimage import data

    return torch.from_numpy(data.coffee()[None] / np.float32(255))


@torch.no_grad()
def test_the_head_still_knows_a_cup_of_coffee(patches: PatchEncoder) -> None:
    features = patches.tower.trunk.forward_features(patches.preprocess(photograph()))
    guesses = published_head()(features.mean(dim=(2, 3))).topk(2).indices[0].tolist()
    assert set(guesses) <= COFFEE


@torch.no_grad()
def test_what_the_head_says_is_left_in_the_projection(patches: PatchEncoder) -> None:
    """Its centred logits are those of the projection, but for the directions that are left out: the least ones."""
    features = patches.features(patches.preprocess(photograph()))[0]  # [P, C]
    wide = PatchEncoder(dataclasses.replace(patches.config, width=999)).eval()
    load_imagenet(wide)
    weight = published_head().weight.double()
    centred = features.double() @ (weight - weight.mean(dim=0)).T
    projection = wide.tower.head.proj.weight
    torch.testing.assert_close(projection @ projection.T, torch.eye(999), rtol=0, atol=1e-5)
    found = (features @ projection.T).double() @ class_vectors(projection).double().T
    torch.testing.assert_close(found, centred, rtol=0, atol=1e-3 * float(centred.abs().max()))
    left = [centred - (features @ cut.T).double() @ class_vectors(cut).double().T for cut in (projection[:16],)]
    expected = np.linalg.svd((weight - weight.mean(dim=0)).numpy(), compute_uv=False)
    lost = class_vectors(projection).double().norm(dim=0).numpy()  # singular values, largest first
    np.testing.assert_allclose(lost, expected[:999], rtol=1e-3)
    assert float(left[0].square().mean()) < float(centred.square().mean())


def test_a_projection_wider_than_the_heads_directions_is_refused(patches: PatchEncoder) -> None:
    with pytest.raises(ValueError, match="has 999 directions"):
        load_imagenet(PatchEncoder(dataclasses.replace(patches.config, width=1000)))


def test_known_classes_are_found_by_any_name_of_a_kind() -> None:
    cow, stamp, dog, nothing = known_classes(["a cow", "cow", "a dog", "an unheard-of thing"])
    assert cow == stamp == (345,)  # ox
    assert len(dog) > 100
    assert nothing == ()


def test_drawn_features_are_what_the_head_takes_them_for(patches: PatchEncoder) -> None:
    """They lie around the mean, spread as patches do, and the class that they were drawn for is the nearest one."""
    wide = PatchEncoder(dataclasses.replace(patches.config, width=64)).eval()
    load_imagenet(wide)
    vectors = class_vectors(wide.tower.head.proj.weight)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4000, 64, generator=generator) @ torch.randn(64, 64, generator=generator) / 8 + 1.0
    mean, covariance = rows.mean(dim=0), rows.T.cov(correction=0)
    chosen = torch.arange(0, 1000, 10)
    drawn = PatchFeatures(mean, covariance).draw(vectors[chosen], 9, generator)
    assert drawn.shape == (100, 9, 64)
    margin = ((drawn - mean) * vectors[chosen][:, None]).sum(-1)  # logits above the mean
    assert 4.0 < float(margin.mean()) < 12.0
    objects = drawn.mean(dim=1) - mean
    found = (objects @ vectors.T).argmax(dim=-1)
    assert float((found == chosen).float().mean()) > 0.6  # of a thousand, many of them dogs
    # What is left of them beside their class's direction varies half as much as patches do.
    each = drawn - drawn.mean(dim=1, keepdim=True)
    varied = torch.linalg.solve(torch.linalg.cholesky(covariance), each.flatten(0, 1).T).std()
    assert float(varied) == pytest.approx(0.5 * 0.5**0.5 * (8 / 9) ** 0.5, rel=0.1)


def test_only_a_tower_from_imagenet_has_classes_to_replay(tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config)
    with pytest.raises(ValueError, match="need imagenet: true"):
        StarterEncodersObjective(model, StarterEncodersSettings(replay_weight=1.0), objects_of(CAPTIONS))


def test_a_text_tower_learns_beside_a_tower_that_stays(tiny_config: SoundingConfig, patches: PatchEncoder) -> None:
    query = QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=8, context_length=16, tokenizer="")
    config = dataclasses.replace(tiny_config, patches=patches.config, query=query)
    settings = StarterEncodersSettings(imagenet=True, replay_weight=0.3)
    objective = StarterEncodersObjective(SoundingModel(config), settings, objects_of(CAPTIONS)).train()
    batch = objective.example(torch.device("cpu"))
    found = objective(batch)
    terms = {"attention": 1.0, "region": 1.0, "scene": 0.25, "replay": 0.3}
    expected = sum(weight * found[name].item() for name, weight in terms.items())
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    found["loss"].backward()
    assert all(parameter.grad is None for parameter in objective.patches.parameters())
    learned = [parameter.grad for parameter in objective.query.parameters() if parameter.requires_grad]
    assert any(grad is not None and float(grad.abs().sum()) > 0 for grad in learned)


def objects_of(captions: list[str]) -> list[ObjectEntry]:
    known = known_classes(captions)
    return [
        ObjectEntry(caption, label, caption, "", "", "", 0.0, "", "", classes=classes)
        for label, (caption, classes) in enumerate(zip(captions, known, strict=True))
    ]
