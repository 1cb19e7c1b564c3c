"""The paper's main training: its items, its loss, what it learns."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

import sounding
from sounding.config import SoundingConfig
from sounding.grounding import Grounding, match_moments
from sounding.model import SoundingModel
from training.data.settings import DataSettings
from training.data.shards import Shards
from training.engine.loop import train
from training.engine.previews import Preview, PreviewItem
from training.engine.settings import LoopConfig
from training.run import run
from training.starter.grounded import StarterGroundedItems, StarterGroundedSettings
from training.tasks.grounded import GroundedItems, GroundedObjective, GroundedSettings, min_snr_weights
from training.tasks.grounded_finetuning import GroundedFinetuningObjective, GroundedFinetuningSettings

from .helpers import random_batch, read_log, recipe_of


def test_grounded_learns_from_features(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, features: Path, tmp_path: Path
) -> None:
    picture = Path(__file__).parents[2] / "example_workflows" / "input" / "farm.png"
    config = dataclasses.replace(tiny_config, grounding=dataclasses.replace(tiny_config.grounding, mask_training=0.5))
    recipe = recipe_of(
        "grounded",
        config,
        tmp_path,
        data=DataSettings(shards=str(features), workers=1),
        start={"all": str(tiny_checkpoint), "grounding": "random"},
        preview=Preview(every=40, items=(PreviewItem(image=str(picture)),), seconds=0.64, steps=2),
    )
    recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, ema=0.9))
    model = sounding.load(run(recipe), device="cpu")
    logged = read_log(recipe.folder)
    assert logged[-1]["loss"] < 0.95 * logged[0]["loss"]
    assert float(model.grounding.weight_std) == pytest.approx(logged[-1]["weight_std"], rel=0.1)
    assert model.config.grounding.mask_training == 0.5
    assert sorted(file.name for file in (recipe.folder / "previews").iterdir()) == ["step-00000040", "step-00000080"]
    assert len(list((recipe.folder / "previews").rglob("*.wav"))) == 2


def test_features_of_other_encoders_are_refused(
    tiny_config: SoundingConfig, tiny_model: SoundingModel, features: Path
) -> None:
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="prepare them again"):
        GroundedItems(features, SoundingModel(tiny_config), GroundedSettings())
    assert len(GroundedItems(features, tiny_model, GroundedSettings())) == 6


def test_shares_of_masks_and_dropped_conditions_are_the_recipes(tiny_model: SoundingModel, features: Path) -> None:
    items = GroundedItems(features, tiny_model, GroundedSettings(drop=0.3))
    items.by_mask = 0.6
    drawn = [items.item(i % 6, np.random.default_rng(i)) for i in range(400)]
    assert np.mean([item["dropped"] for item in drawn]) == pytest.approx(0.3, abs=0.07)
    assert np.mean([item["by_mask"] for item in drawn]) == pytest.approx(0.6, abs=0.07)
    noise = torch.stack([item["noise"] for item in drawn])
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert 0 <= min(item["time"] for item in drawn) < 30
    assert 970 < max(item["time"] for item in drawn) < 1000


@pytest.mark.parametrize(
    ("prediction", "floor", "limit"),
    [
        ("epsilon", 0.0, 0.0),
        ("epsilon", 0.2, 0.0),
        ("epsilon", 0.2, 1.5),
        ("v_prediction", 0.0, 0.0),
        ("v_prediction", 0.2, 0.1),
    ],
)
def test_the_grounded_loss_is_equation_1(
    tiny_config: SoundingConfig, prediction: str, floor: float, limit: float
) -> None:
    """In float64 and written out, for a batch with every kind of condition."""
    diffusion = dataclasses.replace(tiny_config.diffusion, prediction=prediction)
    torch.manual_seed(0)
    model = SoundingModel(dataclasses.replace(tiny_config, diffusion=diffusion))
    objective = GroundedObjective(model, GroundedSettings(snr_gamma=5.0))
    if floor or limit:
        settings = GroundedFinetuningSettings(snr_gamma=5.0, snr_floor=floor, snr_limit=limit)
        objective = GroundedFinetuningObjective(model, settings)
    objective = objective.double().eval()
    batch = {name: value.double() if value.is_floating_point() else value for name, value in random_batch().items()}
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)[batch["time"]][:, None, None, None]
    noisy = signal.sqrt() * batch["latents"] + (1 - signal).sqrt() * batch["noise"]
    by_text = model.grounding.by_query(batch["query"], batch["patches"]).tokens
    by_mask = model.grounding.by_mask(batch["coverage"], batch["patches"]).tokens
    condition = torch.stack([by_text[0], by_mask[1], model.grounding.null])
    predicted = model.unet(noisy, batch["time"], encoder_hidden_states=condition).sample
    target = batch["noise"]
    if prediction == "v_prediction":
        target = signal.sqrt() * batch["noise"] - (1 - signal).sqrt() * batch["latents"]
    snr = (signal / (1 - signal)).flatten()
    plain = snr + 1 if prediction == "v_prediction" else snr
    weight = (snr.clamp(floor, 5) / plain).clamp(max=limit or math.inf)
    assert not limit or float(weight.max()) == limit
    expected = ((predicted - target).square().mean((1, 2, 3)) * weight).mean()
    torch.testing.assert_close(objective(batch)["loss"].float(), expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers_training_scripts(prediction: str) -> None:
    """Hang et al. 2023: min(SNR, gamma) / SNR, and over SNR + 1 for the velocity; 0 is the plain loss of either."""
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    times = torch.arange(1000)
    snr = compute_snr(scheduler, times)
    top = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    velocity = prediction == "v_prediction"
    expected = top / (snr + 1) if velocity else top / snr
    torch.testing.assert_close(min_snr_weights(snr, 5.0, velocity=velocity), expected)
    assert set(min_snr_weights(snr, 0.0, velocity=velocity).tolist()) == {1.0}


def test_attention_is_on_target_where_masks_say_what_the_target_is(
    tiny_model: SoundingModel, features: Path, tmp_path: Path
) -> None:
    """The mean over items with masks, however they are cut into micro-batches; nothing where there are none."""

    class Some(GroundedItems):
        masked = 3

        def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            item = super().item(index, rng)
            return item | {"shown": torch.tensor(index < self.masked)}

    logged = []
    for masked, accumulate in ((6, 1), (3, 1), (3, 3), (0, 1)):
        items = Some(features, tiny_model, GroundedSettings())
        items.masked = masked
        objective = GroundedObjective(copy.deepcopy(tiny_model), GroundedSettings())
        loop = LoopConfig(steps=1, batch=6, lr=0.0, accumulate=accumulate, precision="fp32")
        folder = tmp_path / f"{masked}-{accumulate}"
        train(objective, items, loop, folder)
        logged.append(json.loads((folder / "log.jsonl").read_text()))
    assert 0 < logged[0]["on_target"] < 1
    assert logged[1]["on_target"] == pytest.approx(logged[2]["on_target"], rel=1e-4)
    assert "on_target" not in logged[3]
    assert not any("shown" in line for line in logged)
    background = StarterGroundedItems(features, tiny_model, StarterGroundedSettings(backdrop=1.0))
    assert not background.item(0, np.random.default_rng(0))["shown"]
    items = GroundedItems(features, tiny_model, GroundedSettings())
    items.shards = Shards(features, items.fields)  # as those of pairs without masks
    assert not items.item(0, np.random.default_rng(0))["shown"]


def test_frozen_diffusion_learns_grounding_and_cross_attention_alone(tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config)
    objective = GroundedObjective(model, GroundedSettings(frozen=True))
    learning = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    unet = {name for name in learning if name.startswith("unet.")}
    assert unet
    assert all(".attn2." in name for name in unet)
    assert learning - unet == {f"grounding.{name}" for name, _ in model.grounding.named_parameters()}


def test_moments_of_a_mask_meet_those_of_attention_in_training(tiny_config: SoundingConfig) -> None:
    grounding = Grounding(tiny_config.grounding, 16, 25).train()
    stds = []
    for _ in range(20):
        condition = grounding.by_query(torch.randn(8, 16) * 20, torch.randn(8, 25, 16))
        stds.append(condition.weights.std(dim=-1, unbiased=False).mean())
    assert float(grounding.weight_std) == pytest.approx(float(torch.stack(stds).mean().detach()), rel=1e-4)
    matched = match_moments((torch.rand(1, 25) > 0.5).float(), grounding.weight_std)
    assert float(matched.std(unbiased=False)) == pytest.approx(float(grounding.weight_std), rel=1e-4)
