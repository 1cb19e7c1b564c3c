"""A few-step student beside its teacher in one checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

import sounding
from sounding.config import SoundingConfig
from sounding.grounding import Condition
from sounding.model import SoundingModel
from sounding.networks.few_steps import layers_of, student_of


def with_student(config: SoundingConfig, *, steps: int = 4, rank: int = 2) -> SoundingConfig:
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, few_steps=steps, few_steps_rank=rank))


@pytest.fixture
def model(tiny_config: SoundingConfig) -> SoundingModel:
    torch.manual_seed(3)
    model = SoundingModel(with_student(tiny_config)).requires_grad_(False)
    for parameter in model.unet.few_steps.parameters():
        parameter.normal_(std=0.1)
    return model


def condition_of(model: SoundingModel) -> Condition:
    tokens = torch.randn(1, 1, model.config.grounding.condition_width, generator=torch.Generator().manual_seed(5))
    patches = model.config.patches.grid**2
    return Condition(tokens, torch.full((1, patches), 1 / patches), torch.ones(1), ("mask",))


def test_the_students_weights_are_its_teachers_and_a_product_of_narrow_ones(model: SoundingModel) -> None:
    student, changes = student_of(model.unet), model.unet.few_steps
    own = dict(layers_of(student))
    assert not hasattr(student, "few_steps")
    for name, layer in layers_of(model.unet):
        key = name.replace(".", "-")
        product = changes.out[key].double() @ changes.into[key].double()
        assert changes.into[key].shape[0] == min(2, layer.weight.shape[0])
        expected = layer.weight.double() + product.view_as(layer.weight)
        torch.testing.assert_close(own[name].weight.double(), expected, rtol=0, atol=1e-6)
        assert own[name].weight is not layer.weight
    assert model.student is model.student  # made once


def test_sounds_are_the_students_by_plain_ddim(model: SoundingModel) -> None:
    """diffusers' scheduler on the merged U-Net, without guidance, is the reference."""
    condition, noise, config = condition_of(model), model.noise(0.5, [4]), model.config.diffusion
    scheduler = DDIMScheduler(**config.schedule, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    student, latents = student_of(model.unet), noise
    for step in scheduler.timesteps:
        found = student(latents, step, encoder_hidden_states=condition.tokens).sample
        latents = scheduler.step(found, step, latents).prev_sample
    calls: list[tuple[int, int]] = []
    made = model.sample(condition, noise, on_step=lambda done, steps: calls.append((done, steps)))
    torch.testing.assert_close(made, latents, rtol=1e-4, atol=1e-4 * float(latents.abs().max()))
    assert calls[-1] == (4, 4)
    same = model.sample(condition, noise, steps=4, cfg=1.0, sampler="ddim")
    assert torch.equal(made, same)


def test_whatever_else_is_asked_for_is_the_teachers(model: SoundingModel, tiny_config: SoundingConfig) -> None:
    teacher = SoundingModel(tiny_config).requires_grad_(False)
    weights = {name: value for name, value in model.state_dict().items() if ".few_steps." not in name}
    teacher.load_state_dict(weights)
    condition, noise = condition_of(model), model.noise(0.5, [4])
    for asked in ({"steps": 5}, {"cfg": 2.0, "steps": 4}, {"sampler": "dpm++", "steps": 3}, {"negative": condition}):
        one, other = (each.sample(condition, noise, **asked) for each in (model, teacher))  # type: ignore[arg-type]
        assert torch.equal(one, other), asked
    one, other = (each.sample(condition, noise, latents=noise, denoise=0.5, steps=4) for each in (model, teacher))
    assert torch.equal(one, other)
    model.drop_student()
    assert torch.equal(model.sample(condition, noise), teacher.sample(condition, noise))
    assert model.config == teacher.config


def test_what_is_left_to_the_checkpoint(tiny_config: SoundingConfig) -> None:
    config, own = with_student(tiny_config), tiny_config.generation
    assert dataclasses.astuple(config.sampling()) == (4, 1.0, "ddim", True)
    assert dataclasses.astuple(config.sampling(plain=False)) == (own.steps, own.cfg, own.sampler, False)
    assert dataclasses.astuple(config.sampling(cfg=3.0)) == (own.steps, 3.0, own.sampler, False)
    assert dataclasses.astuple(config.sampling(steps=50)) == (50, own.cfg, own.sampler, False)
    assert dataclasses.astuple(tiny_config.sampling()) == (own.steps, own.cfg, own.sampler, False)
    assert tiny_config.sampling(steps=4, cfg=1.0, sampler="ddim").student is False


def test_a_checkpoint_keeps_both(model: SoundingModel, tmp_path: Path) -> None:
    file = tmp_path / "both.safetensors"
    model.save_pretrained(file, dtype=torch.float32)
    again = sounding.load(file, device="cpu")
    condition, noise = condition_of(model), model.noise(0.5, [4])
    for asked in ({}, {"steps": 5}):
        assert torch.equal(again.sample(condition, noise, **asked), model.sample(condition, noise, **asked))
    damaged = with_student(model.config, rank=4)
    model.config = damaged
    model.save_pretrained(tmp_path / "damaged.safetensors", dtype=torch.float32)
    with pytest.raises(sounding.CheckpointError, match=r"unet\.few_steps.* has shape"):
        sounding.load(tmp_path / "damaged.safetensors", device="cpu")


def test_a_student_is_made_anew_where_weights_move(model: SoundingModel) -> None:
    condition, noise = condition_of(model), model.noise(0.5, [4])
    before = model.sample(condition, noise)
    first = model.student
    model.unet.to(torch.float64)
    assert model.student is not first
    assert model.student.conv_in.weight.dtype == torch.float64
    model.unet.to(torch.float32)
    assert torch.equal(model.sample(condition, noise), before)
