"""Grounding that learns to tell kinds apart before there is a U-Net."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

import sounding
from sounding.model import SoundingModel
from training.data.shards import Shards
from training.starter import conditions
from training.starter.conditions import (
    StarterConditionsItems,
    StarterConditionsObjective,
    StarterConditionsSettings,
    StarterConditionsTask,
)
from training.tasks.task import Context


def batch_of(items: StarterConditionsItems, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    collated: dict[str, object] = default_collate([items.item(index, rng) for index in range(len(items))])
    return collated


def test_items_say_which_kinds_sound(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    items = StarterConditionsItems(features, model, StarterConditionsSettings())
    rows = Shards(features, ("labels", "sounding"))
    for index in range(len(items)):
        row, kinds = rows[index], items.item(index, np.random.default_rng(index))["kinds"]
        heard = [row["labels"][place] for place in row["sounding"]]
        assert kinds.tolist() == pytest.approx([heard.count(kind) / len(heard) for kind in range(items.kinds)])


def test_what_is_selected_can_look_as_a_class_does(
    tiny_checkpoint: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds by the root of their classes' number; the patches of the selection alone, along the class's vector."""
    model = sounding.load(tiny_checkpoint, device="cpu")
    width = model.config.patches.width
    classes = [[0], [1, 2, 3, 4], []]
    vectors = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(conditions, "_classes", lambda *_: (classes, np.array([1, 2, 0]) / 3))
    monkeypatch.setattr(conditions, "class_vectors", lambda projection: vectors)
    items = StarterConditionsItems(features, model, StarterConditionsSettings(replay=0.9))
    plain = StarterConditionsItems(features, model, StarterConditionsSettings())
    drawn = [items.item(0, np.random.default_rng(seed)) for seed in range(300)]
    before = [plain.item(0, np.random.default_rng(seed)) for seed in range(300)]
    replayed = [
        (new, old) for new, old in zip(drawn, before, strict=True) if not torch.equal(new["patches"], old["patches"])
    ]
    assert len(replayed) / 300 == pytest.approx(0.9, abs=0.06)
    assert np.mean([int(new["kinds"][1]) for new, _ in replayed]) == pytest.approx(2 / 3, abs=0.08)
    along = []
    for new, old in replayed:
        assert new["by_mask"]
        assert new["shown"]
        assert float(new["kinds"].sum()) == 1
        outside = old["coverage"] < 1e-5
        torch.testing.assert_close(new["patches"][outside], old["patches"][outside], rtol=0, atol=1e-4)
        if new["kinds"][0]:
            moved = (new["patches"] - items.like.mean)[new["coverage"] > 0.99]
            along.append(float((moved @ vectors[0]).mean()))
    assert np.mean(along) == pytest.approx(8, rel=0.2)  # logits: half-way between 4 and 12


def test_classes_to_replay_are_those_of_the_features(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    with pytest.raises(ValueError, match=r"replay draws ImageNet's classes, but .* names none"):
        StarterConditionsItems(features, model, StarterConditionsSettings(replay=0.5))
    shards = Shards(features, ("labels",))
    next(iter(shards.indices.values())).settings["classes"] = [[5], [], [1, 2, 3, 4]]
    found, likely = conditions._classes(shards, features)
    assert found == [[5], [], [1, 2, 3, 4]]
    np.testing.assert_allclose(likely, [1 / 3, 0, 2 / 3])


def test_losses_are_those_of_the_kinds_vectors(tiny_checkpoint: Path, features: Path) -> None:
    """Against NumPy; a backdrop is of no kind, and its condition should be zero."""
    model = sounding.load(tiny_checkpoint, device="cpu")
    settings = StarterConditionsSettings(attention_start=1.0, backdrop=0.5)
    items = StarterConditionsItems(features, model, settings)
    objective = StarterConditionsObjective(model, settings, items.kinds).eval()
    batch = batch_of(items, 3) | {"by_mask": torch.ones(len(items), dtype=torch.bool)}
    shown = np.asarray(batch["shown"], float)
    assert 0 < shown.sum() < len(shown)
    found = {name: float(value.detach()) for name, value in objective(batch).items()}

    vectors, kinds = objective.vectors.double().numpy(), np.asarray(batch["kinds"], float) * shown[:, None]
    tokens = [
        model.grounding.gather(
            sounding.grounding.shift_and_scale(
                cover[None], model.grounding.weight_std.float(), clamp=model.config.grounding.clamp_weights
            )[:, None],
            patches[None],
        )
        for cover, patches in zip(batch["coverage"], batch["patches"], strict=True)
    ]
    condition = torch.cat(tokens)[:, 0].detach().double().numpy()
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (condition, vectors)]
    logits = 20 * unit[0] @ unit[1].T
    likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert found["kind"] == pytest.approx(-(kinds * likely).sum(axis=1).mean(), rel=1e-4)
    assert found["distance"] == pytest.approx(np.square(condition - kinds @ vectors).mean(), rel=1e-4)
    assert found["loss"] == pytest.approx(found["kind"] + 20 * found["distance"], rel=1e-5)
    assert found["top1"] == pytest.approx((kinds[np.arange(len(kinds)), logits.argmax(axis=1)] > 0).mean())


def test_conditions_come_to_tell_kinds_apart_and_attention_stays(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    settings = StarterConditionsSettings(attention_start=1.0, distance=0.2)
    items = StarterConditionsItems(features, model, settings)
    objective = StarterConditionsObjective(model, settings, items.kinds)
    kept = {
        name: value.clone()
        for name, value in model.grounding.named_parameters()
        if not name.startswith(("to_value", "mlp"))
    }
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    surplus = []  # of the cross-entropy over the kinds' own entropy
    for step in range(200):
        batch = batch_of(items, step)
        found = objective(batch)
        kinds = batch["kinds"]
        assert isinstance(kinds, torch.Tensor)
        surplus.append(float(found["kind"].detach() - torch.special.entr(kinds).sum(dim=1).mean()))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert min(surplus) > -1e-5
    assert np.mean(surplus[-20:]) < 0.2 * np.mean(surplus[:2])
    assert all(torch.equal(value, dict(model.grounding.named_parameters())[name]) for name, value in kept.items())


def softmaxed(checkpoint: Path, units: int) -> SoundingModel:
    like = sounding.load(checkpoint, device="cpu").config
    grounding = dataclasses.replace(like.grounding, activation="softmax", mlp_width=units)
    return SoundingModel(dataclasses.replace(like, grounding=grounding))


def test_after_a_softmax_conditions_are_means_of_the_kinds_vectors(tiny_checkpoint: Path, features: Path) -> None:
    model, settings = softmaxed(tiny_checkpoint, 40), StarterConditionsSettings(attention_start=1.0)
    objective = StarterConditionsObjective(model, settings, 7)
    first, last = model.grounding.mlp[0], model.grounding.mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert [name for name, p in model.grounding.mlp.named_parameters() if p.requires_grad] == ["0.weight", "0.bias"]
    values = torch.randn(5, model.config.grounding.key_width)
    shares = (values.double() @ first.weight.double().T + first.bias.double()).softmax(dim=1)[:, :7]
    expected = shares @ objective.vectors.double()
    torch.testing.assert_close(model.grounding.mlp(values).double(), expected, rtol=1e-4, atol=1e-5)
    assert float(last.weight[:, 7:].abs().max()) == 0


def test_a_softmax_has_a_unit_for_what_is_of_no_kind(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="mlp_width is 7, but one more than the 7 kinds"):
        StarterConditionsObjective(softmaxed(tiny_checkpoint, 7), StarterConditionsSettings(), 7)


def test_an_estimate_needs_no_data(tiny_checkpoint: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    task = StarterConditionsTask()
    objective = task.objective(model, StarterConditionsSettings(), Context())
    assert torch.isfinite(objective(objective.example(torch.device("cpu")))["loss"])
