"""Class-feature replay: objects made by feature inversion, and the last layers that learn them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sounding.config import PatchConfig, QueryConfig, SoundingConfig
from sounding.grounding import match_moments
from sounding.model import SoundingModel
from training.data.object_set import ObjectSet
from training.data.tensor_cache import TensorCache
from training.engine.optimization import parameter_groups
from training.starter.encoders import SceneItems
from training.starter.imagenet import known_classes, load_imagenet, published_weights
from training.starter.inversion import CellStatistics, TargetClasses
from training.starter.replay import LastLayers, ReplayObjective, ReplaySettings
from training.starter.replay_scenes import ReplayItems, inverted_objects

CAPTIONS = ["a cow", "a dog", "a saw"]
LEARNT = {
    "patches.tower.trunk.conv_head.weight",
    "patches.tower.head.proj.weight",
    "grounding.to_value.weight",
    *(f"grounding.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
}


@pytest.fixture
def model(tiny_config: SoundingConfig) -> SoundingModel:
    """A small model that sees by ImageNet's tower."""
    half = (0.5, 0.5, 0.5)
    patches = PatchConfig("timm", "tf_efficientnet_lite0", width=16, grid=5, image_size=160, mean=half, std=half)
    config = dataclasses.replace(
        tiny_config,
        patches=dataclasses.replace(patches, quick_gelu=False),
        query=QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=8, context_length=16, tokenizer=""),
        grounding=dataclasses.replace(tiny_config.grounding, norm_matching=True),
    )
    torch.manual_seed(3)
    model = SoundingModel(config).requires_grad_(False)
    load_imagenet(model.patches)
    model.grounding.condition_mean.normal_()
    model.grounding.condition_length.fill_(0.5)
    return model.eval()


@pytest.fixture
def named(stamps_data: ObjectSet) -> ObjectSet:
    """The tests' own stamps by names that ImageNet's head knows, but for one."""
    renamed = copy.copy(stamps_data)
    renamed.entries = [
        dataclasses.replace(entry, caption=caption)
        for entry, caption in zip(stamps_data.entries, CAPTIONS, strict=True)
    ]
    return renamed


@pytest.fixture
def items(model: SoundingModel, named: ObjectSet) -> ReplayItems:
    return ReplayItems(named, model, ReplaySettings(scenes=4, inverted=120, inverted_per_item=12))


def batch_of(items: ReplayItems, seed: int = 0) -> dict[str, Tensor]:
    rows = [items.item(index, np.random.default_rng([seed, index])) for index in range(len(items))]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "id"}


def test_cells_are_counted_as_in_one_go() -> None:
    rows = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(1)).mul(2).add(1)
    cells = CellStatistics(6)
    for part in rows:
        cells.observe(part[None])
    np.testing.assert_allclose(cells.mean, rows.flatten(0, 1).mean(0), atol=1e-5)
    within = np.mean([np.cov(part.T.numpy(), bias=True) for part in rows], axis=0)
    np.testing.assert_allclose(cells.covariance, within, atol=1e-5)
    shrunk = cells.shrunk()
    np.testing.assert_allclose(shrunk.diagonal(), np.diag(within), atol=1e-5)
    assert float(shrunk[0, 1]) == pytest.approx(0.9 * within[0, 1], abs=1e-5)


def test_inverted_objects_are_seen_by_the_head_and_is_not_far_from_pictures(
    model: SoundingModel, items: ReplayItems
) -> None:
    pictures = torch.cat([torch.stack([item[name] for item in items.items]) for name in ("cells", "backdrop")])
    cells = CellStatistics(pictures.shape[2])
    cells.observe(pictures)
    last = LastLayers(model.patches.tower)
    made = inverted_objects(last, pictures, cells, CAPTIONS, 200, seed=1)
    published = published_weights()
    cow, dogs, _ = known_classes(CAPTIONS)

    @torch.no_grad()
    def named_by_head(cells: Tensor, wanted: Tensor) -> float:
        """Share whose likeliest class of all thousand is of the wanted kind: 0 a cow, 1 any dog."""
        logits = last.features(cells.float()).mean(dim=1) @ published["_fc.weight"].T + published["_fc.bias"]
        kinds = (set(cow), set(dogs))
        right = [guess in kinds[kind] for guess, kind in zip(logits.argmax(-1).tolist(), wanted.tolist(), strict=True)]
        return sum(right) / len(right)

    wanted = torch.tensor([int(number in dogs) for number in made["class"].tolist()])
    assert 0.7 < float(wanted.float().mean()) < 0.98  # the square root of 118 kinds to 1
    assert {int(number) for number in made["class"]} <= {*cow, *dogs}
    assert named_by_head(pictures[:, :4], torch.ones(len(pictures), dtype=torch.long)) == 0
    assert named_by_head(made["made"], wanted) > 0.5
    # Not farther from the mean cell than cells of pictures are, along the directions in which these differ.
    inverse = torch.linalg.inv(cells.shrunk())

    def distance(rows: Tensor) -> Tensor:
        away = rows.float().flatten(0, 1) - cells.mean
        return (away @ inverse * away).sum(dim=-1).sqrt()

    assert float(distance(made["made"]).median()) < 1.5 * float(distance(pictures).median())
    again = inverted_objects(last, pictures, cells, CAPTIONS, 200, seed=1)
    assert torch.equal(again["made"], made["made"])


def test_inverted_objects_and_scenes_are_cached(model: SoundingModel, named: ObjectSet, tmp_path: Path) -> None:
    settings = ReplaySettings(scenes=2, inverted=30, cache=str(tmp_path))
    first = ReplayItems(named, model, settings)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    stamps = [file.stat().st_mtime_ns for file in files]
    second = ReplayItems(named, model, settings)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    one, other = (part.item(1, np.random.default_rng(3)) for part in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one if name != "id")


def test_mongrels_are_somewhat_of_both() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])
    wanted = TargetClasses(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.25, 0.5]))
    assert wanted.of(logits).tolist() == [2.0, 2.0]


def test_the_last_layers_give_the_patches(model: SoundingModel, items: ReplayItems, named: ObjectSet) -> None:
    picture = SceneItems(named, model, backdrops=True).item(2, np.random.default_rng(2))["image"]
    with torch.no_grad():
        found = LastLayers(model.patches.tower)(batch_of(items)["cells"][2].float())
        expected = model.patches(picture[None])[0]
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()), rtol=0)  # fp16 between


def test_a_model_that_learnt_nothing_loses_nothing_that_it_has(model: SoundingModel, items: ReplayItems) -> None:
    objective = ReplayObjective(model, ReplaySettings(), CAPTIONS).train()
    batch = batch_of(items)
    found = objective(batch)
    assert found["kept"].item() == 0
    assert found["other"].item() == pytest.approx(0, abs=1e-9)
    expected = sum(
        getattr(objective.settings, f"{name}_weight") * found[name].item()
        for name in ("kept", "region", "replay", "single", "other", "sound")
    )
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    found["loss"].backward()
    learnt = {name for name, value in objective.named_parameters() if value.grad is not None}
    assert learnt == LEARNT
    assert {group["share"] for group in parameter_groups(objective)} == {0.2, 0.5, 1.0}


def test_patches_that_are_kept_leave_conditions_alone_to_learn(model: SoundingModel, items: ReplayItems) -> None:
    objective = ReplayObjective(model, ReplaySettings(keep_patches=True), CAPTIONS).train()
    found = objective(batch_of(items))
    found["loss"].backward()
    learnt = {name for name, value in objective.named_parameters() if value.grad is not None}
    assert learnt == {name for name in LEARNT if name.startswith("grounding.")}
    assert found["kept"].item() == 0


def test_usual_conditions_are_means_over_all_that_was_seen(model: SoundingModel, items: ReplayItems) -> None:
    objective = ReplayObjective(model, ReplaySettings(), CAPTIONS).train()
    batch = batch_of(items)
    objective(batch)
    objective(batch)
    patches = objective.old_last(batch["cells"].float())
    conditions: dict[int, list[Tensor]] = {}
    model.grounding.train()  # at no usual length
    for picture, row in enumerate(batch["labels"].tolist()):
        for place, label in enumerate(row):
            cover = batch["grids"][picture, place][None]
            if label >= 0 and float(cover.sum()) > 0.2:
                weights = match_moments(cover.clamp(min=1e-6), model.grounding.weight_std)
                condition = model.grounding.gather(weights[:, None], patches[picture][None])[0, 0]
                conditions.setdefault(label, []).append(condition.detach())
    assert len(conditions) > 1
    for label, each in conditions.items():
        torch.testing.assert_close(objective.usual[label], torch.stack(each).mean(dim=0), atol=1e-5, rtol=1e-4)
        assert int(objective.counts[label]) == 2 * len(each)


def test_inverted_objects_are_learnt(model: SoundingModel, items: ReplayItems) -> None:
    torch.manual_seed(0)
    objective = ReplayObjective(model, ReplaySettings(region_weight=0.0, kept_weight=0.1), CAPTIONS).train()
    optimizer = torch.optim.Adam([value for value in objective.parameters() if value.requires_grad], 3e-3)
    losses = []
    for step in range(25):
        found = objective(batch_of(items, step))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["replay"].item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert found["replay_top1"].item() > 0.7


def test_only_a_tower_that_imagenets_head_fits_can_be_replayed_to(tiny_config: SoundingConfig) -> None:
    with pytest.raises(ValueError, match="patch tower test_efficientnet, but one with tf_efficientnet_lite0"):
        ReplayObjective(SoundingModel(tiny_config), ReplaySettings(), CAPTIONS)


def test_objects_that_imagenet_does_not_know_cannot_be_replayed(model: SoundingModel, stamps_data: ObjectSet) -> None:
    with pytest.raises(ValueError, match="3 stamps are of nothing that ImageNet has a class for"):
        ReplayItems(stamps_data, model, ReplaySettings(scenes=1, inverted=1))


def test_kept_items_are_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return {"value": torch.tensor([1.0, 2.0])}

    weights = {"weight": torch.ones(3)}
    cache = TensorCache(tmp_path, "all", weights)
    first, second = cache.get(7, make), TensorCache(tmp_path, "all", weights).get(7, make)
    assert len(made) == 1
    assert torch.equal(first["value"], second["value"])
    TensorCache(tmp_path, "all", {"weight": torch.zeros(3)}).get(7, make)
    TensorCache(tmp_path, "all", {"other": torch.ones(3)}).get(7, make)
    TensorCache(tmp_path, "other", weights).get(7, make)
    pictures = [np.zeros((2, 3, 4), np.uint8), np.zeros((3, 2, 4), np.uint8), np.ones((2, 3, 4), np.uint8)]
    for picture in (*pictures, pictures[0]):
        TensorCache(tmp_path, "all", weights, [picture]).get(7, make)
    assert len(made) == 7
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert torch.equal(TensorCache(tmp_path, "all", weights).get(7, make)["value"], first["value"])
    assert len(made) == 8
    assert torch.equal(TensorCache(tmp_path, "all", weights).get(7, make)["value"], first["value"])
    assert len(made) == 8


def test_what_is_kept_is_of_the_pictures_at_hand(model: SoundingModel, named: ObjectSet, tmp_path: Path) -> None:
    """Other images by the same names, and more inverted objects, are not those of an earlier run in the folder."""
    settings = ReplaySettings(scenes=2, inverted=30, cache=str(tmp_path))
    first = ReplayItems(named, model, settings)
    other = copy.copy(named)
    channels = [cutout.split() for cutout in named.cutouts]
    other.cutouts = [Image.merge("RGBA", (blue, green, red, alpha)) for red, green, blue, alpha in channels]
    turned = ReplayItems(other, model, settings)
    assert not torch.equal(first.items[0]["cells"], turned.items[0]["cells"])
    more = ReplayItems(named, model, dataclasses.replace(settings, inverted=40))
    assert [len(part["class"]) for part in more.made] == [40]
