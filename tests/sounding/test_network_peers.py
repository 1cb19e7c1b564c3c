"""Our networks and samplers against the libraries' whose weights they take: the same names, weights and numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from benchmarks.peers import unet_peer, vae_peer, vocoder_peer
from sounding.config import SAMPLERS, DiffusionConfig, GroundingConfig, SoundingConfig, UnetConfig, VaeConfig
from sounding.diffusion import draw_noise
from sounding.networks.build import build_unet, build_vae, build_vocoder
from sounding.samplers import build_sampler

CONFIG = SoundingConfig(
    grounding=GroundingConfig(condition_width=24),
    vae=VaeConfig(channels=(8, 8, 16), layers=2, norm_groups=4),
    unet=UnetConfig(channels=(8, 16, 24), layers=2, norm_groups=4, heads=(1, 2, 3)),
    vocoder=dataclasses.replace(SoundingConfig().vocoder, initial_channels=32, normalize=True),
)
FILM = dataclasses.replace(CONFIG, unet=UnetConfig((8, 16), layers=1, head_width=8, norm_groups=4, film_width=24))


def pair(ours: Callable[..., nn.Module], peer: Callable[..., nn.Module], config: SoundingConfig) -> Iterator[Any]:
    """Both, of one seed, in training."""
    for make in (ours, peer):
        torch.manual_seed(3)
        yield make(config).train()


def check_equal(ours: nn.Module, peer: nn.Module, run: Callable[[Any], Tensor]) -> None:
    """Names in one order, for states of optimisers know weights by their number; weights, outputs and gradients."""
    theirs = peer.state_dict()
    assert list(ours.state_dict()) == list(theirs)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in peer.named_parameters()]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    outputs = [run(ours), run(peer)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(*outputs)
    assert outputs[0].std() > 0
    for (name, weight), other in zip(ours.named_parameters(), peer.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        assert weight.grad is None or torch.equal(weight.grad, other.grad), name


@pytest.mark.parametrize("frames", [16, 10], ids=["whole", "odd_on_the_way"])
@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
def test_unet_is_diffusers(frames: int, plain: bool) -> None:
    ours, peer = pair(build_unet, unet_peer, CONFIG)
    if plain:
        ours.use_plain_attention()
        peer.set_attn_processor(AttnProcessor())
    latents, condition = torch.randn(2, 8, frames, 16), torch.randn(2, 3, 24)
    for times in (torch.tensor(7), torch.tensor([3, 900]), 5):
        check_equal(ours, peer, lambda unet: unet(latents, times, encoder_hidden_states=condition).sample)  # noqa: B023
        ours.zero_grad()
        peer.zero_grad()


def test_unet_with_film_is_diffusers() -> None:
    ours, peer = pair(build_unet, unet_peer, FILM)
    latents, condition, time = torch.randn(2, 8, 8, 16), torch.randn(2, 1, 24), torch.tensor([3, 900])

    def run(unet: Any) -> Tensor:
        if unet is ours:
            return unet(latents, time, encoder_hidden_states=condition).sample
        return unet(latents, time, None, class_labels=condition[:, 0]).sample

    check_equal(ours, peer, run)
    with pytest.raises(ValueError, match=r"The condition has 2 tokens, but a U-Net with FiLM takes 1"):
        ours(latents, time, torch.zeros(2, 2, 24))


def test_vae_is_diffusers() -> None:
    ours, peer = pair(build_vae, vae_peer, CONFIG)
    mel = torch.randn(2, 1, 24, 64)

    def run(vae: Any) -> Tensor:
        found = vae.encode(mel).latent_dist
        return vae.decode(found.mean + 0.1 * found.std).sample + found.var.mean() + found.logvar.mean()

    check_equal(ours, peer, run)


def test_vocoder_is_transformers() -> None:
    ours, peer = pair(build_vocoder, vocoder_peer, CONFIG)
    for one in (ours, peer):
        one.mean.fill_(0.3)
        one.scale.fill_(2.0)
    mel = torch.randn(2, 12, 64)
    check_equal(ours, peer, lambda vocoder: vocoder(mel))
    for one in (ours, peer):
        one.apply_weight_norm()
        one.zero_grad()
    check_equal(ours, peer, lambda vocoder: vocoder(mel))


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_diffusers(name: str, prediction: Any, schedule: Any) -> None:
    """Every number of a sampling, also where latents get their noise on the way."""
    config = DiffusionConfig(beta_schedule=schedule, prediction=prediction)
    ours = build_sampler(config, name)
    noise, clean = draw_noise((2, 9, 3), [1, 2]), torch.linspace(-1, 1, 108).view(2, 2, 9, 3)
    for steps in (1, 2, 7, 15, 61):
        options: dict[str, Any] = {"use_karras_sigmas": name == "dpm++ karras"}
        if name == "ddim":
            options = {"solver_order": 1, "final_sigmas_type": "sigma_min"}
        peer: Any = DPMSolverMultistepScheduler(**config.schedule, **options)
        ours.set_timesteps(steps)
        if name == "dpm++ karras":
            peer.set_timesteps(steps)
        else:
            peer.set_timesteps(timesteps=ours.timesteps.tolist())
        peer.set_begin_index(0)
        assert torch.equal(ours.alphas_cumprod, peer.alphas_cumprod)
        assert torch.equal(ours.timesteps, peer.timesteps)
        assert torch.equal(ours.sigmas, peer.sigmas)
        noisy = other = noise
        for number, time in enumerate(ours.timesteps):
            assert torch.equal(ours.add_noise(clean, noise, number), peer.add_noise(clean, noise, time[None]))
            predicted = torch.tanh(0.7 * noisy + time / 2000)
            noisy = ours.step(predicted, number, noisy)
            other = peer.step(predicted, time, other).prev_sample
            assert torch.equal(noisy, other), (steps, number)
