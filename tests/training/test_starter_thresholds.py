"""Thresholds of sureness: between what is an object and what is none, as measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import sounding
from sounding.config import SoundingConfig
from sounding.grounding import between, least_cosine
from training.data.object_set import ObjectEntry
from training.data.shards import Shards
from training.starter.calibrate import calibrate
from training.starter.thresholds import _apart


def entries(names: list[str]) -> list[ObjectEntry]:
    return [
        ObjectEntry(name, label, f"a {name}", "image", "", "audio", 1.0, "", "", captions=(f"my {name}",))
        for label, name in enumerate(names)
    ]


def test_nearly_all_of_what_is_wanted_counts_fully_and_most_others_for_nothing() -> None:
    rng = np.random.default_rng(0)
    wanted, others = (torch.from_numpy(rng.normal(mean, 0.05, 5000)).float() for mean in (0.9, 0.3))
    zero, one = _apart(wanted, others, 1.0)
    assert one == pytest.approx(float(np.quantile(wanted, 0.02)), abs=2e-3)
    assert zero == pytest.approx(float(np.quantile(others, 0.8)), abs=2e-3)
    sure = between(wanted, zero, one)
    assert float((sure == 1).float().mean()) == pytest.approx(0.98, abs=0.01)
    assert float((between(others, zero, one) == 0).float().mean()) == pytest.approx(0.8, abs=0.02)
    # Smaller numbers are wanted: the same, mirrored.
    assert _apart(-wanted.neg(), -others.neg(), 1.0) == (zero, one)
    assert _apart(wanted, others, -1.0) == (-zero, -one)
    # What cannot be told apart leaves what is wanted as it is.
    zero, one = _apart(wanted, wanted, 1.0)
    assert zero == pytest.approx(one - 0.05, abs=2e-3)


def testleast_cosine_are_those_of_single_patches() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [1.0, 1.0], [3.0, 3.0]]])
    torch.testing.assert_close(least_cosine(patches), torch.tensor([0.5**0.5, 1.0]))


def test_a_checkpoint_gets_thresholds_of_its_own(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, features: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated.safetensors"
    calibrate(tiny_checkpoint, features, out, entries(["bar", "disc", "square"]))
    before, after = (sounding.load(path, device="cpu").config.generation for path in (tiny_checkpoint, out))
    names = ("backdrop_cosine", "norm_ratio_beside_cosine", "patch_cosine", "name_cosine")
    assert dataclasses.replace(after, **{name: getattr(before, name) for name in names}) == before
    for name in ("norm_ratio_beside_cosine", "name_cosine"):  # larger is surer
        assert getattr(after, name)[0] < getattr(after, name)[1]
    for name in ("backdrop_cosine", "patch_cosine"):
        assert getattr(after, name)[0] > getattr(after, name)[1]

    model = sounding.load(out, device="cpu")
    shards = Shards(features, ("frames", "coverage"))
    rows = [shards[number] for number in range(len(shards))]
    rows = [row for row in rows if float(row["coverage"].float().sum()) >= 2]
    grounding = model.grounding.train()
    lengths = []
    for row in rows:
        weights = sounding.grounding.shift_and_scale(
            row["coverage"][None].float().clamp(min=1e-6), grounding.weight_std, clamp=grounding.config.clamp_weights
        )
        found = grounding.gather(weights[:, None], row["frames"][0][None].float())[0, 0]
        lengths.append(float((found - grounding.condition_mean).norm() / grounding.condition_length))
    assert after.norm_ratio_beside_cosine[1] == pytest.approx(float(np.quantile(lengths, 0.02)), abs=0.02)
