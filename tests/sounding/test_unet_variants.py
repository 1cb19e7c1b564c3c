"""The U-Net over patches of the latents, and the one that the condition modulates."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel

from sounding.config import SoundingConfig, UnetConfig
from sounding.cost import attending
from sounding.model import SoundingModel
from sounding.networks.build import build_unet


def patched(config: SoundingConfig, size: int = 2) -> SoundingConfig:
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, patch_size=size))


def test_it_is_diffusers_own_between_a_rearrangement_and_its_inverse(tiny_config: SoundingConfig) -> None:
    torch.manual_seed(0)
    network = build_unet(patched(tiny_config))
    own = UNet2DConditionModel.from_config(network.config).eval()
    assert type(own) is UNet2DConditionModel
    own.load_state_dict(network.state_dict())
    channels, bands = tiny_config.vae.latent_channels, tiny_config.latent_bands
    sample = torch.randn(2, channels, 16, bands)
    condition = torch.randn(2, 1, tiny_config.grounding.condition_width)
    # [B, C, T, F] -> [B, C * 4, T/2, F/2]: channel c * 4 + 2 * i + j is cell (i, j) of each patch.
    cells = sample.reshape(2, channels, 8, 2, bands // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, -1, 8, bands // 2)
    with torch.no_grad():
        found = network(sample, torch.tensor(7), condition).sample
        made = own(cells, torch.tensor(7), condition).sample
    expected = made.reshape(2, channels, 2, 2, 8, bands // 2).permute(0, 1, 4, 2, 5, 3).reshape(sample.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_modulation_is_diffusers_own_class_embedding_of_the_mean_token(tiny_config: SoundingConfig) -> None:
    torch.manual_seed(0)
    unet = dataclasses.replace(tiny_config.unet, modulated=True)
    network = build_unet(dataclasses.replace(tiny_config, unet=unet))
    own = UNet2DConditionModel.from_config(network.config).eval()
    own.load_state_dict(network.state_dict())
    sample = torch.randn(2, tiny_config.vae.latent_channels, 16, tiny_config.latent_bands)
    tokens = torch.randn(2, 3, tiny_config.grounding.condition_width)
    others = tokens.roll(1, dims=0)
    with torch.no_grad():
        found = network(sample, torch.tensor(7), tokens).sample
        made = own(sample, torch.tensor(7), tokens, class_labels=tokens.sum(dim=1) / 3).sample
        elsewhere = own(sample, torch.tensor(7), tokens, class_labels=others.sum(dim=1) / 3).sample
    torch.testing.assert_close(found, made, rtol=1e-4, atol=1e-5)
    assert (made - elsewhere).abs().mean() > 1e-3  # the class alone makes a difference
    scales = [layer.time_embedding_norm for layer in network.modules() if hasattr(layer, "time_embedding_norm")]
    assert set(scales) == {"scale_shift"}


def test_sounds_have_whole_patches(tiny_config: SoundingConfig) -> None:
    config = patched(tiny_config)
    stride = 2 ** (len(config.unet.channels) - 1) * 2
    for seconds in (0.1, 0.5, 1.37):
        assert config.latent_frames(seconds) % stride == 0
        assert config.latent_frames(seconds) >= tiny_config.latent_frames(seconds)
    assert attending(config) * 4 == pytest.approx(attending(tiny_config), abs=4)
    model = SoundingModel(config).eval()
    noise = model.noise(0.5, [1])
    tokens = torch.randn(1, 1, config.grounding.condition_width)
    from sounding.grounding import Condition

    condition = Condition(tokens, torch.full((1, config.patches.grid**2), 1 / 25), torch.ones(1), ("mask",))
    latents = model.sample(condition, noise, steps=2)
    assert latents.shape == noise.shape
    assert torch.isfinite(latents).all()


def test_patches_that_do_not_fit_are_refused(tiny_config: SoundingConfig) -> None:
    with pytest.raises(ValueError, match="patch_size is 5, but a divisor"):
        patched(tiny_config, 5)
    film = UnetConfig(channels=(16, 16), film_width=tiny_config.grounding.condition_width, patch_size=2)
    with pytest.raises(ValueError, match="own U-Net has neither patches nor modulation"):
        dataclasses.replace(tiny_config, unet=film)
    with pytest.raises(ValueError, match="patch_size 1 and modulated True"):
        dataclasses.replace(tiny_config, unet=dataclasses.replace(film, patch_size=1, modulated=True))
