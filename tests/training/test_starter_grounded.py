"""The starter's grounded training: blends, single objects, backgrounds, the encoders' attention, calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate

import sounding
from sounding.config import SoundingConfig
from sounding.grounding import Grounding
from training.data.shards import Shards
from training.starter.calibrate import calibrate
from training.starter.grounded import (
    StarterGroundedItems,
    StarterGroundedObjective,
    StarterGroundedSettings,
    kind_vectors,
    start_from_encoders,
)
from training.tasks.grounded import GroundedObjective


def test_patches_can_be_mixed_with_anothers(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    plain, mixed = (StarterGroundedItems(features, model, StarterGroundedSettings(mix=mix)) for mix in (0.0, 0.5))
    every = [plain.shards[index]["frames"][0].float() for index in range(len(plain))]
    shares = []
    for seed in range(20):
        patches = mixed.item(0, np.random.default_rng(seed))["patches"]
        toward = [
            (((patches - every[0]) * (other - every[0])).sum() / (other - every[0]).square().sum())
            for other in every[1:]
        ]
        fits = [
            float((patches - every[0].lerp(other, float(t))).abs().max())
            for t, other in zip(toward, every[1:], strict=True)
        ]
        best = int(np.argmin(fits))
        assert fits[best] < 1e-4
        shares.append(float(toward[best]))
    assert 0 <= min(shares) < 0.2 < 0.35 < max(shares) <= 0.5
    assert torch.equal(plain.item(0, np.random.default_rng(0))["patches"], every[0])


def test_items_of_several_sounds_give_way_to_single_ones(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    rows = Shards(features, ("id", "sounding"))
    single = {row["id"]: len(row["sounding"]) == 1 for row in (rows[index] for index in range(len(rows)))}
    several = next(index for index in range(len(rows)) if not single[rows[index]["id"]])
    never, half, always = (
        StarterGroundedItems(features, model, StarterGroundedSettings(alone=alone)) for alone in (0.0, 0.5, 1.0)
    )
    draws = [np.random.default_rng(seed) for seed in range(60)]
    assert {never.item(several, rng)["id"] for rng in draws} == {rows[several]["id"]}
    assert all(single[always.item(several, rng)["id"]] for rng in draws)
    assert np.mean([single[half.item(several, rng)["id"]] for rng in draws]) == pytest.approx(0.5, abs=0.2)
    kept = next(index for index in range(len(rows)) if single[rows[index]["id"]])
    assert always.item(kept, np.random.default_rng(0))["id"] == rows[kept]["id"]


def test_items_can_be_cut(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    step = model.config.unet.stride
    whole, cut = (StarterGroundedItems(features, model, StarterGroundedSettings(cut=cut)) for cut in (0, step))
    firsts = set()
    for seed in range(20):
        all_of_it, part = (items.item(0, np.random.default_rng(seed)) for items in (whole, cut))
        places = range(all_of_it["latents"].shape[1] - step + 1)
        same = [
            all(torch.equal(all_of_it[name][:, first : first + step], part[name]) for name in ("latents", "noise"))
            for first in places
        ]
        assert sum(same) == 1
        firsts.add(same.index(True))
    assert len(firsts) > 2
    for wrong in (step + 1, 64 * step):
        with pytest.raises(ValueError, match=f"cut is {wrong}, but a multiple of {step} up to"):
            StarterGroundedItems(features, model, StarterGroundedSettings(cut=wrong))


def test_some_conditions_are_the_vectors_of_what_sounds(tiny_checkpoint: Path, features: Path) -> None:
    """Those of several objects are means; backdrops and what is dropped never have them."""
    model = sounding.load(tiny_checkpoint, device="cpu")
    settings = StarterGroundedSettings(vectors=0.5, backdrop=0.3)
    items = StarterGroundedItems(features, model, settings)
    rows = [Shards(features, ("id", "labels", "sounding"))[index] for index in range(len(items))]
    heard = {row["id"]: [row["labels"][place] for place in row["sounding"]] for row in rows}
    assert len({len(labels) for labels in heard.values()}) > 1
    vectors = kind_vectors(items.kinds, model.config).double().numpy()
    assert abs(vectors).max() > 1
    rng = np.random.default_rng(0)
    drawn = [items.item(int(index), rng) for index in rng.integers(len(items), size=200)]
    assert np.mean([item["by_vector"] for item in drawn if item["shown"]]) == pytest.approx(0.5, abs=0.12)
    assert not any(item["by_vector"] for item in drawn if not item["shown"])
    objective = StarterGroundedObjective(model, settings).eval()
    batch = default_collate(drawn)
    with torch.no_grad():
        plain, found = GroundedObjective.conditions(objective, batch)[0], objective.conditions(batch)[0]
    for item, before, after in zip(drawn, plain, found, strict=True):
        if item["by_vector"] and not item["dropped"]:
            expected = vectors[heard[item["id"]]].mean(axis=0)
            np.testing.assert_allclose(after[0].numpy(), expected, atol=1e-5)
        else:
            assert torch.equal(before, after)


def test_noise_on_vectors_has_a_uniform_deviation(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    exact, noisy = (
        StarterGroundedItems(features, model, StarterGroundedSettings(vectors=1.0, vector_noise=noise))
        for noise in (0.0, 2.0)
    )
    added = torch.stack(
        [
            noisy.item(0, np.random.default_rng(seed))["vector"] - exact.item(0, np.random.default_rng(seed))["vector"]
            for seed in range(400)
        ]
    )
    assert float(added.mean()) == pytest.approx(0, abs=0.1)
    # The deviation of u n with u uniform up to 2 and n normal: sqrt(E u^2) = 2 / sqrt(3).
    assert float(added.std()) == pytest.approx(2 / 3**0.5, rel=0.15)


def test_vectors_can_be_mixed_with_another_kinds(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    items = StarterGroundedItems(features, model, StarterGroundedSettings(vectors=1.0, vector_mix=0.4))
    assert items.vectors is not None
    row = Shards(features, ("labels", "sounding"))[0]
    own = items.vectors[[row["labels"][place] for place in row["sounding"]]].mean(dim=0)
    shares = []
    for seed in range(60):
        given = items.item(0, np.random.default_rng(seed))["vector"]
        # The share at which the blend with each kind's vector lies nearest to what came.
        toward = [float((given - own) @ (other - own) / (other - own).square().sum()) for other in items.vectors]
        fits = [
            float((given - own.lerp(other, share)).abs().max())
            for other, share in zip(items.vectors, toward, strict=True)
            if not torch.equal(other, own)
        ]
        assert min(fits) < 1e-4 or torch.allclose(given, own)
        shares.append(max(toward))
    assert 0 <= min(shares) < 0.1 < 0.3 < max(shares) <= 0.4 + 1e-5


def test_a_backdrop_is_heard_with_any_items_sound(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    never, half, always = (
        StarterGroundedItems(features, model, StarterGroundedSettings(backdrop=b)) for b in (0.0, 0.5, 1.0)
    )
    rows = [always.shards[index] for index in range(len(always))]
    free, sounding_part = rows[1]["backdrop"].float(), rows[1]["coverage"].float().clamp(min=1e-6)
    assert not torch.equal(free, sounding_part)
    heard, parts = set(), []
    for seed in range(40):
        item = always.item(1, np.random.default_rng(seed))
        assert item["by_mask"]
        inside = item["coverage"] > 1e-6  # all of what is free, or a part
        torch.testing.assert_close(item["coverage"][inside], free[inside])
        parts.append(float(item["coverage"].sum() / free.clamp(min=1e-6).sum()))
        distances = [float((item["latents"] - row["mean"].float()).square().sum()) for row in rows]
        heard.add(int(np.argmin(distances)))
    assert len(heard) > 3
    assert np.mean(np.isclose(parts, 1.0)) == pytest.approx(0.5, abs=0.25)
    assert min(parts) < 0.7
    drawn = [half.item(1, np.random.default_rng(seed)) for seed in range(200)]
    assert np.mean([torch.equal(item["coverage"], sounding_part) for item in drawn]) == pytest.approx(0.5, abs=0.1)
    assert all(torch.equal(never.item(1, np.random.default_rng(s))["coverage"], sounding_part) for s in range(9))


def test_a_backdrop_is_asked_of_features_that_have_one(tiny_checkpoint: Path, features: Path) -> None:
    items = StarterGroundedItems(
        features, sounding.load(tiny_checkpoint, device="cpu"), StarterGroundedSettings(backdrop=1.0)
    )
    items.shards = Shards(features, items.fields, optional=("coverage",))  # as features were made before
    with pytest.raises(ValueError, match="prepare the features again"):
        items.item(0, np.random.default_rng(0))


def test_attention_can_begin_as_the_encoders_only_if_it_is_of_their_form(tiny_config: SoundingConfig) -> None:
    for change, said in (({"scoring": "additive"}, "additive scoring"), ({"key_width": 8}, "key_width 8")):
        grounding = Grounding(dataclasses.replace(tiny_config.grounding, **change), 16, 25)
        with pytest.raises(ValueError, match=f"16 numbers.*{said}"):
            start_from_encoders(grounding)


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_grounding_starts_with_the_encoders_attention(tiny_config: SoundingConfig, sharpness: float) -> None:
    grounding = Grounding(dataclasses.replace(tiny_config.grounding, positions=False), 16, 25)
    start_from_encoders(grounding, sharpness)
    query, patches = torch.randn(2, 16), torch.randn(2, 25, 16)
    expected = torch.einsum("bl,bpl->bp", query, patches).mul(sharpness / 4.0).softmax(-1)
    torch.testing.assert_close(grounding.attend(query, patches)[:, 0], expected)


def test_a_model_from_before_gets_the_usual_length_of_its_conditions(
    tiny_checkpoint: Path, features: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated.safetensors"
    length = calibrate(tiny_checkpoint, features, out)
    before, after = load_file(tiny_checkpoint), load_file(out)
    added = {"grounding.condition_mean", "grounding.condition_length", "grounding.condition_backdrop"}
    assert after.keys() - before.keys() == added
    assert all(torch.equal(after[name], value) for name, value in before.items())

    old, new = sounding.load(tiny_checkpoint, device="cpu"), sounding.load(out, device="cpu")
    shards = Shards(features, ("patches", "queries", "backdrop"))
    conditions = torch.cat(
        [
            old.grounding.by_query(query[None].float(), row["patches"][:1].float()).tokens[:, 0].double()
            for row in (shards[index] for index in range(len(shards)))
            for query in row["queries"]
        ]
    )
    lengths = (conditions - conditions.mean(dim=0)).norm(dim=-1)
    assert float(new.grounding.condition_length) == pytest.approx(length) == pytest.approx(float(lengths.mean()), 0.02)
    torch.testing.assert_close(new.grounding.condition_mean.double(), conditions.mean(dim=0), rtol=1e-4, atol=1e-6)
    ways = []
    for row in (shards[index] for index in range(len(shards))):
        if float(row["backdrop"].float().sum()) > 4:
            found = old.grounding.by_mask(row["backdrop"][None].float().clamp(min=1e-6), row["patches"][:1].float())
            ways.append(found.tokens[0, 0].double() - conditions.mean(dim=0))
    backdrop = new.grounding.condition_backdrop
    assert backdrop is not None
    torch.testing.assert_close(backdrop.double(), torch.stack(ways).mean(dim=0), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="are not of"):
        calibrate(_with_other_encoders(tiny_checkpoint, tmp_path), features, tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def _with_other_encoders(checkpoint: Path, folder: Path) -> Path:
    model = sounding.load(checkpoint, device="cpu")
    with torch.no_grad():
        model.patches.tower.head.proj.weight.mul_(1.5)
    model.save_pretrained(folder / "other.safetensors", dtype=torch.float32)
    return folder / "other.safetensors"
