"""Every trainer through recipes, on the tests' own stamps: what they learn, and that the result loads."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import sounding
from sounding.checkpoint import read_header
from sounding.config import QueryConfig, SoundingConfig
from sounding.grounding import Grounding, match_moments
from sounding.model import SoundingModel
from training.data.features import FeatureSource
from training.data.object_set import ObjectSet
from training.data.scene_source import SceneSource
from training.data.settings import DataSettings
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.sounds import ObjectClips
from training.engine.loader import Order, build_loader
from training.engine.loop import train
from training.engine.previews import Preview, PreviewItem
from training.engine.settings import LoopConfig
from training.recipe import RECIPES, WRITTEN, Recipe, read_recipe
from training.registry import TASKS
from training.run import begin, fresh_parts, run
from training.starter import run as starter
from training.starter.calibrate import calibrate
from training.tasks.encoders import EncodersObjective, EncodersSettings, SceneItems, attention_loss, contrastive_loss
from training.tasks.grounded import (
    GroundedItems,
    GroundedObjective,
    GroundedSettings,
    loss_weights,
    start_from_encoders,
)
from training.tasks.vae import VaeSettings
from training.tasks.vocoder import VocoderSettings, stft_distance

from ..conftest import ROOT


def losses_of(recipe: Recipe) -> list[dict[str, float]]:
    return [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def features(stamps_folder: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of a few scenes, as the tiny model sees and hears them."""
    out = tmp_path_factory.mktemp("shards")
    scenes = SceneSource(stamps_folder, scenes=6, split="train", seconds=1.28, size=160, captions=2)
    make_shards(scenes, out / "scenes", shard_size=4)
    model = sounding.load(tiny_checkpoint, device="cpu")
    make_shards(FeatureSource(out / "scenes", model), out / "features", shard_size=4)
    return out / "features"


def recipe_of(task: Any, config: SoundingConfig, out: Path, **more: Any) -> Recipe:
    loop = LoopConfig(steps=80, batch=4, lr=3e-3, warmup=5, log_every=10, precision="fp32")
    return Recipe(
        **{"task": task, "name": task, "loop": loop, "out": str(out), "model": config, "dtype": "fp32"} | more
    )


def test_vae_learns_and_its_latents_scale_is_measured(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    data = DataSettings(stamps=str(stamps_folder))
    recipe = recipe_of("vae", tiny_config, tmp_path, data=data, settings=VaeSettings(frames=32))
    model = sounding.load(run(recipe), device="cpu")
    logged = losses_of(recipe)
    assert logged[-1]["l1"] < 0.7 * logged[0]["l1"]
    clips = ObjectClips(ObjectSet(stamps_folder))
    sounds = torch.stack([clips.crop(i % 3, 5120, np.random.default_rng(i)) for i in range(24)])
    deviation = float(torch.cat([model.encode(part) for part in sounds.split(8)]).std())
    assert deviation == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("critic", [0.0, 0.03])
def test_vocoder_learns(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, stamps_folder: Path, tmp_path: Path, critic: float
) -> None:
    settings = VocoderSettings(
        frames=24, stft=1.0 if critic else 0.0, resolutions=(256,), restored=0.5 if critic else 0.0, critic=critic
    )
    recipe = recipe_of(
        "vocoder",
        tiny_config,
        tmp_path,
        data=DataSettings(stamps=str(stamps_folder)),
        settings=settings,
        start={"all": str(tiny_checkpoint)},  # from scratch it stays too quiet for so few steps
    )
    if critic:
        recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, steps=20))
    before = begin(recipe).vocoder.state_dict()
    model = sounding.load(run(recipe), device="cpu")
    logged = losses_of(recipe)
    if critic:
        assert {"critic", "adversarial", "matching"} <= logged[0].keys()
    else:
        assert logged[-1]["mel"] < 0.7 * logged[0]["mel"]
    assert not torch.equal(model.vocoder.state_dict()["conv_pre.weight"], before["conv_pre.weight"])


def test_a_vocoders_export_sounds_as_it_did_in_training(
    tiny_config: SoundingConfig, tiny_model: SoundingModel, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("vocoder", tiny_config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    model = begin(recipe)
    objective = TASKS["vocoder"].build(model, recipe.settings, recipe.data, fresh_parts(recipe)).objective
    mel = torch.randn(1, 24, 64)
    objective.install(model)
    torch.testing.assert_close(model.vocoder(mel), objective.generator(mel), rtol=1e-5, atol=1e-6)


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
    logged = losses_of(recipe)
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
    settings = GroundedSettings(snr_gamma=5.0, snr_floor=floor, snr_limit=limit)
    objective = GroundedObjective(model, settings).double().eval()
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
    torch.testing.assert_close(loss_weights(snr, GroundedSettings(snr_gamma=5.0), velocity=velocity), expected)
    assert set(loss_weights(snr, GroundedSettings(), velocity=velocity).tolist()) == {1.0}


@pytest.mark.parametrize(("accumulate", "processes"), [(1, 1), (4, 1), (1, 2), (2, 2)])
def test_even_times_are_spread_over_a_steps_whole_batch(
    tiny_config: SoundingConfig, accumulate: int, processes: int
) -> None:
    """However the batch is cut into micro-batches and shares of processes."""

    class Times:
        def __len__(self) -> int:
            return 50

        def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            return {"time": int(rng.integers(1000))}

    model = SoundingModel(tiny_config)
    plain, even = (GroundedObjective(model, GroundedSettings(even_times=e)) for e in (False, True))
    steps: list[dict[str, int]] = [{} for _ in range(3)]
    for rank in range(processes):
        order = Order(50, batch=8, steps=3, seed=4, accumulate=accumulate, rank=rank, processes=processes)
        for place, batch in enumerate(build_loader(Times(), order)):
            assert torch.equal(plain.times(batch), batch["time"])
            found = even.times(batch).tolist()
            steps[place // accumulate] |= dict(zip(batch["id"], found, strict=True))
    for times in steps:
        gaps = torch.tensor(sorted(times.values())).diff(append=torch.tensor([min(times.values()) + 1000]))
        assert gaps.tolist() == [125] * 8
    whole: list[dict[str, int]] = []
    for batch in build_loader(Times(), Order(50, batch=8, steps=3, seed=4)):
        whole.append(dict(zip(batch["id"], even.times(batch).tolist(), strict=True)))
    assert steps == whole
    assert steps[0].values() != steps[1].values()


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
    items = GroundedItems(features, tiny_model, GroundedSettings(backdrop=1.0))
    assert not items.item(0, np.random.default_rng(0))["shown"]
    items.shards = Shards(features, items.fields)  # as those of pairs without masks
    items.backdrop = 0.0
    assert not items.item(0, np.random.default_rng(0))["shown"]


def random_batch() -> dict[str, Tensor]:
    return {
        "latents": torch.randn(3, 8, 8, 16),
        "noise": torch.randn(3, 8, 8, 16),
        "time": torch.tensor([20, 400, 900]),
        "patches": torch.randn(3, 25, 16),
        "query": torch.randn(3, 16),
        "coverage": torch.rand(3, 25),
        "shown": torch.tensor([True, True, True]),
        "by_mask": torch.tensor([False, True, True]),
        "dropped": torch.tensor([False, False, True]),
    }


def test_patches_can_be_mixed_with_anothers(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    plain, mixed = (GroundedItems(features, model, GroundedSettings(mix=mix)) for mix in (0.0, 0.5))
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
    never, half, always = (GroundedItems(features, model, GroundedSettings(alone=alone)) for alone in (0.0, 0.5, 1.0))
    draws = [np.random.default_rng(seed) for seed in range(60)]
    assert {never.item(several, rng)["id"] for rng in draws} == {rows[several]["id"]}
    assert all(single[always.item(several, rng)["id"]] for rng in draws)
    assert np.mean([single[half.item(several, rng)["id"]] for rng in draws]) == pytest.approx(0.5, abs=0.2)
    kept = next(index for index in range(len(rows)) if single[rows[index]["id"]])
    assert always.item(kept, np.random.default_rng(0))["id"] == rows[kept]["id"]


def test_a_backdrop_is_heard_with_any_items_sound(tiny_checkpoint: Path, features: Path) -> None:
    model = sounding.load(tiny_checkpoint, device="cpu")
    never, half, always = (GroundedItems(features, model, GroundedSettings(backdrop=b)) for b in (0.0, 0.5, 1.0))
    rows = [always.shards[index] for index in range(len(always))]
    free, sounding_part = rows[1]["backdrop"].float(), rows[1]["coverage"].float().clamp(min=1e-6)
    assert not torch.equal(free, sounding_part)
    heard = set()
    for seed in range(40):
        item = always.item(1, np.random.default_rng(seed))
        assert item["by_mask"]
        torch.testing.assert_close(item["coverage"], free.clamp(min=1e-6))
        distances = [float((item["latents"] - row["mean"].float()).square().sum()) for row in rows]
        heard.add(int(np.argmin(distances)))
    assert len(heard) > 3
    drawn = [half.item(1, np.random.default_rng(seed)) for seed in range(200)]
    assert np.mean([torch.equal(item["coverage"], sounding_part) for item in drawn]) == pytest.approx(0.5, abs=0.1)
    assert all(torch.equal(never.item(1, np.random.default_rng(s))["coverage"], sounding_part) for s in range(9))


def test_a_backdrop_is_asked_of_features_that_have_one(tiny_checkpoint: Path, features: Path) -> None:
    items = GroundedItems(features, sounding.load(tiny_checkpoint, device="cpu"), GroundedSettings(backdrop=1.0))
    items.shards = Shards(features, items.fields, optional=("coverage",))  # as features were made before
    with pytest.raises(ValueError, match="prepare the features again"):
        items.item(0, np.random.default_rng(0))


def test_frozen_diffusion_learns_grounding_and_cross_attention_alone(tiny_config: SoundingConfig) -> None:
    model = SoundingModel(tiny_config)
    objective = GroundedObjective(model, GroundedSettings(frozen=True))
    learning = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    unet = {name for name in learning if name.startswith("unet.")}
    assert unet
    assert all(".attn2." in name for name in unet)
    assert learning - unet == {f"grounding.{name}" for name, _ in model.grounding.named_parameters()}


def test_a_kept_grounding_gives_conditions_as_in_generation_and_stays(tiny_config: SoundingConfig) -> None:
    config = dataclasses.replace(tiny_config, grounding=dataclasses.replace(tiny_config.grounding, norm_matching=True))
    model = SoundingModel(config).requires_grad_(False)
    objective = GroundedObjective(model, GroundedSettings(keep_grounding=True)).train()
    learning = {name.split(".")[0] for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert learning == {"unet"}
    batch = objective.example(torch.device("cpu"))
    patches, coverage = torch.randn(1, 25, 16), (torch.rand(1, 25) > 0.5).float()
    batch |= {"patches": patches, "coverage": coverage, "by_mask": torch.tensor([True])}
    plain = model.grounding.train().by_mask(coverage, patches).tokens  # the mean is 0
    model.grounding.condition_length.copy_(2 * plain.norm())
    objective.train()
    before = {name: value.clone() for name, value in model.grounding.state_dict().items()}
    given: list[Tensor] = []
    model.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    objective(batch)["loss"].backward()
    torch.testing.assert_close(given[0], 2 * plain)
    for name, value in model.grounding.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_encoders_learn_where_the_named_object_is(
    tiny_config: SoundingConfig, stamps_data: ObjectSet, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of("encoders", tiny_config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    loop = dataclasses.replace(recipe.loop, lr=1e-2, steps=40)
    recipe = dataclasses.replace(recipe, loop=loop, settings=EncodersSettings(frozen_blocks=0))
    run(recipe)
    logged = losses_of(recipe)
    assert logged[-1]["loss"] < 0.85 * logged[0]["loss"]
    model = begin(recipe)
    objective = EncodersObjective(model, recipe.settings, [stamp.caption for stamp in stamps_data.entries])
    batch = next(iter(build_loader(SceneItems(stamps_data, model), Order(50, batch=4, steps=1))))
    assert batch["grids"].shape == (4, 4, 25)
    assert ((batch["grids"].sum(-1) > 0) <= (batch["labels"] >= 0)).all()
    assert torch.isfinite(objective(batch)["loss"])


def test_encoders_learn_from_what_a_scene_sounds_like(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    query = QueryConfig(tower="clap_audio", width=16, hidden=8, heads=1, depths=(1, 1, 1, 1), tokenizer="")
    grounding = dataclasses.replace(tiny_config.grounding, query="audio")
    config = dataclasses.replace(tiny_config, query=query, grounding=grounding)
    recipe = recipe_of("encoders", config, tmp_path, data=DataSettings(stamps=str(stamps_folder)))
    loop = dataclasses.replace(recipe.loop, lr=3e-3, steps=12, log_every=3)
    model = sounding.load(
        run(dataclasses.replace(recipe, loop=loop, settings=EncodersSettings(frozen_blocks=0))), device="cpu"
    )
    logged = losses_of(recipe)
    assert logged[-1]["attention"] < logged[0]["attention"]
    assert "region" not in logged[0]
    condition = model.ground(torch.randn(1, 25, 16), sound=torch.randn(1, 16_000))
    assert condition.tokens.shape == (1, 1, 16)


def test_attention_loss_is_least_where_attention_is_on_the_object() -> None:
    patches = torch.eye(4)[None] * 10  # four patches, each its own direction
    coverage = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    right, wrong = torch.eye(4)[1:2] * 10, torch.eye(4)[2:3] * 10
    assert attention_loss(right, patches, coverage) < 1e-6
    expected = 10 * 10 / 4**0.5  # log(e^0 / e^50) but for the rest
    assert float(attention_loss(wrong, patches, coverage)) == pytest.approx(expected, rel=1e-3)


def test_contrastive_loss_is_that_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    first, second = (functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    expected = ClipLoss()(first, second, logit_scale=torch.tensor(1 / 0.07))
    torch.testing.assert_close(contrastive_loss(3 * first, second, 0.07), expected)


SHARED_GRADIENT = """
import sys
rank, folder = int(sys.argv[1]), sys.argv[2]
sys.path.insert(0, sys.argv[3])
import torch
from training.tasks.encoders import contrastive_loss, gather
torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
rows, weight = torch.randn(2, 6, 8), torch.randn(8, 8, requires_grad=True)
first, second = (gather(part[3 * rank : 3 * rank + 3] @ weight) for part in rows)
contrastive_loss(first, second, 0.1).backward()
torch.distributed.all_reduce(weight.grad)  # what processes do with gradients: their mean
torch.save(weight.grad / 2, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_contrast_over_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARED_GRADIENT]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path), str(ROOT)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    torch.manual_seed(0)
    rows, weight = torch.randn(2, 6, 8), torch.randn(8, 8, requires_grad=True)
    contrastive_loss(rows[0] @ weight, rows[1] @ weight, 0.1).backward()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scoring", ["dot", "additive"])
@pytest.mark.parametrize("keep", [False, True])
def test_attention_can_stay_as_it_came(tiny_config: SoundingConfig, keep: bool, scoring: Any) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, scoring=scoring)
    model = SoundingModel(dataclasses.replace(tiny_config, grounding=grounding)).requires_grad_(False)
    objective = GroundedObjective(model, GroundedSettings(keep_attention=keep))
    batch = objective.example(torch.device("cpu"))
    batch["patches"], batch["query"] = torch.randn_like(batch["patches"]), torch.randn_like(batch["query"])
    nn.init.normal_(model.unet.conv_out.weight)
    objective(batch)["loss"].backward()
    # Of all that learns, what changes attention is what `attend` has a gradient to.
    learning = {name for name, value in model.grounding.named_parameters() if value.grad is not None}
    model.grounding.requires_grad_(True).zero_grad()
    model.grounding.attend(batch["query"], batch["patches"]).square().sum().backward()
    decides = {name for name, value in model.grounding.named_parameters() if value.grad is not None}
    assert len(decides) == (4 if scoring == "additive" else 3)
    assert learning >= {"to_value.weight", "value_positions", "null"}
    assert learning & decides == (set() if keep else decides)


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


def test_moments_of_a_mask_meet_those_of_attention_in_training(tiny_config: SoundingConfig) -> None:
    grounding = Grounding(tiny_config.grounding, 16, 25).train()
    stds = []
    for _ in range(20):
        condition = grounding.by_query(torch.randn(8, 16) * 20, torch.randn(8, 25, 16))
        stds.append(condition.weights.std(dim=-1, unbiased=False).mean())
    assert float(grounding.weight_std) == pytest.approx(float(torch.stack(stds).mean().detach()), rel=1e-4)
    matched = match_moments((torch.rand(1, 25) > 0.5).float(), grounding.weight_std)
    assert float(matched.std(unbiased=False)) == pytest.approx(float(grounding.weight_std), rel=1e-4)


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


def test_stft_distance_is_zero_only_for_equal_sounds() -> None:
    sound = torch.randn(2, 4000)
    assert float(stft_distance(sound, sound, (128, 512))) == 0
    assert float(stft_distance(0.5 * sound, sound, (128, 512))) == pytest.approx(0.5 + math.log(2), rel=1e-3)
    hiss = 0.05 * sound  # beside silence its ratio is 10: noise at an RMS of 0.05 over the floor of 0.005
    ratio = stft_distance(hiss, torch.zeros_like(sound), (512,)) - (hiss_level(hiss) - math.log(1e-5))
    assert float(ratio) == pytest.approx(10, rel=0.1)


def hiss_level(sound: Tensor) -> Tensor:
    """Mean log-magnitude."""
    window = torch.hann_window(512)
    return torch.stft(sound, 512, 128, window=window, return_complex=True).abs().clamp(min=1e-5).log().mean()


def test_crops_are_where_the_sound_is(stamps_data: ObjectSet) -> None:
    clips = ObjectClips(stamps_data)
    crops = torch.stack([clips.crop(i % 3, 4000, np.random.default_rng(i)) for i in range(16)])
    assert crops.shape == (16, 4000)
    assert (crops.abs().amax(dim=1) > 1e-3).all()


def test_parts_come_from_where_start_says(tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = SoundingModel(dataclasses.replace(tiny_config, vae=dataclasses.replace(tiny_config.vae, scale=0.5)))
    other.save_pretrained(tmp_path / "other.safetensors", dtype=torch.float32)
    start = {"all": str(tiny_checkpoint), "vae": str(tmp_path / "other.safetensors"), "unet": "random"}
    recipe = recipe_of("grounded", tiny_config, tmp_path, start=start)
    model = begin(dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, seed=6)))
    given = sounding.load(tiny_checkpoint, device="cpu")
    assert torch.equal(model.vae.state_dict()["encoder.conv_in.weight"], other.vae.encoder.conv_in.weight)
    assert model.config.vae.scale == 0.5
    assert torch.equal(model.vocoder.state_dict()["conv_pre.weight"], given.vocoder.state_dict()["conv_pre.weight"])
    assert not torch.equal(model.unet.conv_in.weight, given.unet.conv_in.weight)
    with pytest.raises(ValueError, match="start has 'voice'"):
        begin(recipe_of("grounded", tiny_config, tmp_path, start={"voice": "random"}))


def written(recipe: Recipe, *keys: str) -> Recipe:
    """As if a file had spoken of these keys of the model alone."""
    model = copy.copy(recipe.model)
    object.__setattr__(model, WRITTEN, frozenset(keys))
    return dataclasses.replace(recipe, model=model)


def test_a_recipe_decides_how_parts_are_used_and_a_checkpoint_what_they_are(
    tiny_config: SoundingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each part's settings: of a recipe that says something else than the checkpoint, and of one that says nothing."""
    grounding = dataclasses.replace(tiny_config.grounding, mask_training=0.25, clamp_weights=True)
    diffusion = dataclasses.replace(tiny_config.diffusion, prediction="v_prediction")
    patches = dataclasses.replace(tiny_config.patches, geometry="pad")
    theirs = dataclasses.replace(tiny_config, grounding=grounding, diffusion=diffusion, patches=patches)
    torch.manual_seed(4)
    SoundingModel(theirs).save_pretrained(tmp_path / "file.safetensors", dtype=torch.float32)
    start = {"all": str(tmp_path / "file.safetensors")}
    silent = written(recipe_of("grounded", SoundingConfig(), tmp_path, start=start))
    assert dataclasses.replace(begin(silent).config, name="tiny") == theirs
    assert "recipe" not in caplog.text

    changes: dict[str, dict[str, Any]] = {
        "grounding": {"mask_training": 0.0, "clamp_weights": False, "mlp_width": 32},
        "patches": {"geometry": "crop"},
        "diffusion": {"prediction": "epsilon"},
        "vae": {"scale": 0.7},
        "unet": {"channels": (32, 64)},
    }
    mine = dataclasses.replace(
        theirs,
        train_seconds=0.64,
        **{part: dataclasses.replace(getattr(theirs, part), **values) for part, values in changes.items()},
    )
    keys = [f"{part}.{key}" for part, values in changes.items() for key in values]
    with caplog.at_level(logging.WARNING):
        found = begin(written(recipe_of("grounded", mine, tmp_path, start=start), "train_seconds", *keys)).config
    assert (found.grounding.mask_training, found.grounding.clamp_weights) == (0.0, False)
    assert (found.patches.geometry, found.diffusion.prediction, found.train_seconds) == ("crop", "epsilon", 0.64)
    assert (found.grounding.mlp_width, found.vae.scale) == (theirs.grounding.mlp_width, theirs.vae.scale)
    assert found.unet.channels == theirs.unet.channels
    for key in ("train_seconds", *keys):
        (line,) = [record.getMessage() for record in caplog.records if f"model.{key} is" in record.getMessage()]
        kept = key in ("grounding.mlp_width", "vae.scale", "unet.channels")
        assert ("the checkpoint's is taken" if kept else "the recipe's is taken") in line


def test_statistics_of_conditions_begin_anew_where_a_recipe_adds_them(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, norm_matching=True)
    config = dataclasses.replace(tiny_config, grounding=grounding)
    start = {"all": str(tiny_checkpoint)}
    model = begin(recipe_of("grounded", config, tmp_path, start=start))
    assert model.config.grounding.norm_matching
    assert int(model.grounding.weight_count) == 0
    with pytest.raises(ValueError, match="training calibrate"):
        begin(recipe_of("vae", config, tmp_path, start=start))


@pytest.mark.parametrize(
    ("start", "change", "message"),
    [
        ({"grounding": "random"}, {"grounding": {"condition_width": 32}}, r"grounding\.condition_width 16.*32 in the"),
        ({"unet": "random", "patches": "random"}, {"patches": {"width": 8}}, r"grounding was.*patches\.width 16.*8 in"),
        ({"patches": "random"}, {"patches": {"grid": 4, "image_size": 128}}, r"patches\.grid 5.*4 in the recipe"),
        (
            {"query": "random"},
            {"query": {"width": 24}},
            r"query\.width 16.*24 in the recipe; set model\.query\.width=16",
        ),
        ({"vae": "random"}, {"vae": {"latent_channels": 4}}, r"unet was made.*vae\.latent_channels 8.*4 in the recipe"),
        ({"query": "random"}, {"query": {"tower": "clap_audio"}}, r"query is 'text'.*'clap_audio'.*takes sounds"),
        ({}, {"audio": {"mel_bands": 32}}, r"model\.audio\.mel_bands is 64 there and 32 here"),
        ({"unet": "random"}, {"unet": {"channels": (16, 30)}}, r"cannot be built|unet\.channels"),
        ({"unet": "random"}, {"unet": {"head_width": 0}}, r"cannot be built|head_width"),
    ],
)
def test_parts_that_do_not_fit_are_named_in_one_sentence(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path, start: Any, change: Any, message: str
) -> None:
    def build() -> None:
        parts = {part: dataclasses.replace(getattr(tiny_config, part), **values) for part, values in change.items()}
        config = dataclasses.replace(tiny_config, **parts)
        begin(recipe_of("grounded", config, tmp_path, start={"all": str(tiny_checkpoint)} | start))

    with pytest.raises(ValueError, match=message) as raised:
        build()
    assert "\n" not in str(raised.value)


def test_parts_of_two_checkpoints_that_do_not_fit_name_both(
    tiny_config: SoundingConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    grounding = dataclasses.replace(tiny_config.grounding, condition_width=8)
    SoundingModel(dataclasses.replace(tiny_config, grounding=grounding)).save_pretrained(tmp_path / "b.safetensors")
    start = {"all": str(tiny_checkpoint), "grounding": str(tmp_path / "b.safetensors")}
    with pytest.raises(ValueError, match=r"tiny\.safetensors.*condition_width 16.*8 in .*b\.safetensors, where start"):
        begin(recipe_of("grounded", tiny_config, tmp_path, start=start))


def test_the_papers_recipe_does_not_fit_the_starter_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"start\.all is starter.*grounding\.condition_width 256.*512 in the recipe"):
        begin(read_recipe(RECIPES / "paper.yaml", overrides=["start.all=starter"]))


def test_the_starters_stages_follow_each_other_to_one_checkpoint(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipes' own stages, for three steps each of a tiny model."""
    seen = dataclasses.replace(tiny_config.patches, model="tf_efficientnet_lite0")  # which one stage asks for
    grounding = dataclasses.replace(tiny_config.grounding, norm_matching=True)
    config = dataclasses.replace(tiny_config, patches=seen, grounding=grounding)
    small = yaml.safe_load(recipe_of("vae", config, tmp_path).to_yaml())["model"]
    stamps = tmp_path / "stamps"
    shutil.copytree(stamps_folder, stamps)
    manifest = (stamps / "manifest.json").read_text(encoding="utf-8")
    (stamps / "manifest.json").write_text(manifest.replace('"a disc"', '"a cow"'), encoding="utf-8")
    for file in (RECIPES / "starter").glob("*.yaml"):
        recipe = yaml.safe_load(file.read_text())
        if file.stem == "base":
            recipe["model"] = small
        if "loop" in recipe:
            recipe["loop"] |= {"steps": 3, "batch": 2, "log_every": 1, "warmup": 1}
        if file.stem == "encoders":
            recipe["encoders"] = {"imagenet": False, "frozen_blocks": 0}
        if file.stem == "recall":
            recipe["recall"] = {"scenes": 2, "imagined": 4}
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / file.name).write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(starter, "SCENES", 4)
    path = starter.train_starter(stamps, tmp_path / "out", tmp_path / "recipes", workers=0)
    model = sounding.load(path, device="cpu")
    grounded = sounding.load(tmp_path / "out" / "grounded" / "grounded.safetensors", device="cpu")
    assert model.config.vae.scale == grounded.config.vae.scale != tiny_config.vae.scale
    matched = sounding.load(tmp_path / "out" / "matched" / "matched.safetensors", device="cpu")
    torch.testing.assert_close(model.unet.conv_in.weight, matched.unet.conv_in.weight, rtol=1e-3, atol=1e-3)
    assert not torch.equal(matched.unet.conv_in.weight, grounded.unet.conv_in.weight)
    before, after = grounded.patches.tower.head.proj.weight, model.patches.tower.head.proj.weight
    assert not torch.allclose(before, after, rtol=1e-3, atol=1e-3)  # recalled
    assert model.config.grounding.backdrops
    assert not matched.config.grounding.backdrops
    assert "GPL" in read_header(path).metadata["modelspec.license"]
    assert read_header(path).dtypes["unet.conv_in.weight"] == "F16"
