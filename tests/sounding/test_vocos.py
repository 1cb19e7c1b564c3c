"""Vocos: lengths, the place of its frames, windows, circles, half precision, checkpoints, training."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from timm.models.convnext import ConvNeXtBlock
from torch import nn

import sounding
from sounding.config import SoundingConfig, VocoderConfig
from sounding.consistency import check_consistency
from sounding.cost import parameters
from sounding.model import SoundingModel
from sounding.networks.vocos import Block, Vocos, dither


@pytest.fixture(scope="module")
def config(tiny_config: SoundingConfig) -> SoundingConfig:
    return dataclasses.replace(
        tiny_config, vocoder=VocoderConfig(network="vocos", width=16, hidden=32, blocks=8, normalize=True, noise=True)
    )


@pytest.fixture(scope="module")
def model(config: SoundingConfig) -> SoundingModel:
    torch.manual_seed(0)
    model = SoundingModel(config).requires_grad_(False)
    for parameter in model.vocoder.parameters():  # so that every layer has a say
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("frames", [1, 2, 33])
def test_a_frame_is_a_hop(model: SoundingModel, frames: int) -> None:
    assert model.vocode(torch.randn(2, frames, 64)).shape == (2, 1, frames * 160)


def test_frames_are_where_the_spectrogram_has_them(model: SoundingModel) -> None:
    """A head that says the STFT of a waveform gives the waveform back, sample by sample."""
    vocoder = copy.deepcopy(model.vocoder)
    wave = torch.randn(1, 40 * 160)
    spectrum = torch.stft(wave, 640, 160, window=torch.hann_window(640), return_complex=True)
    assert spectrum.shape[2] == 41, "one frame more than hops"

    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == 41
            return torch.cat([spectrum.abs().log(), spectrum.angle()], dim=1).transpose(1, 2)

    vocoder.head = Head()
    vocoder.head.weight = vocoder.conv_in.weight  # for its precision
    torch.testing.assert_close(vocoder(torch.zeros(1, 40, 64)), wave, rtol=1e-3, atol=1e-4)


def test_a_block_is_timms_in_one_dimension() -> None:
    ours, theirs = Block(8, 24, 0.3), ConvNeXtBlock(8, kernel_size=7, mlp_ratio=3, ls_init_value=0.3)
    with torch.no_grad():
        theirs.conv_dw.weight.zero_()
        theirs.conv_dw.weight[:, :, 3] = ours.depthwise.weight
        for copied, own in (
            (theirs.conv_dw.bias, ours.depthwise.bias),
            (theirs.norm.weight, ours.norm.weight),
            (theirs.norm.bias, ours.norm.bias),
            (theirs.mlp.fc1.weight, ours.widen.weight),
            (theirs.mlp.fc1.bias, ours.widen.bias),
            (theirs.mlp.fc2.weight, ours.narrow.weight),
            (theirs.mlp.fc2.bias, ours.narrow.bias),
        ):
            copied.copy_(own)
        values = torch.randn(2, 8, 12)
        torch.testing.assert_close(ours(values), theirs(values[:, :, None])[:, :, 0], rtol=1e-4, atol=1e-5)


def test_windows_are_not_noticed(model: SoundingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    mel = torch.randn(1, 700, 64)
    whole = model.vocode(mel)
    monkeypatch.setattr(SoundingModel, "window_frames", property(lambda self: 256))
    torch.testing.assert_close(model.vocode(mel), whole, rtol=1e-3, atol=1e-4)


def test_a_loop_is_on_a_circle(model: SoundingModel) -> None:
    mel = torch.randn(1, 90, 64)
    made = model.vocode(mel, loop=True)
    rolled = model.vocode(mel.roll(20, dims=1), loop=True)
    torch.testing.assert_close(rolled, made.roll(20 * 160, dims=2), rtol=1e-3, atol=1e-4)


def test_half_precision_stays_near(model: SoundingModel) -> None:
    mel = torch.randn(1, 50, 64)
    exact, half = model.vocode(mel), copy.deepcopy(model).half().vocode(mel)
    assert half.dtype == torch.float32
    assert float((half - exact).norm() / exact.norm()) < 0.02


def test_dither_is_noise_and_the_same_each_time() -> None:
    mel = torch.randn(2, 500, 64).cumsum(dim=1) * 0.05 - 5  # as slow as spectrograms are
    noise = dither(mel)
    assert torch.equal(noise, dither(mel.clone()))
    assert noise.abs().max() <= 3**0.5 + 1e-3
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    for one, other in ((noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1]), (noise, mel - mel.mean())):
        assert abs(float((one * other).mean() / (one.std() * other.std()))) < 0.02
    rounded = dither(mel.half())
    assert len(rounded.unique()) > 500
    assert float(rounded.std()) == pytest.approx(1, abs=0.03)


def test_noise_is_heard(model: SoundingModel) -> None:
    mel = torch.randn(1, 20, 64)
    one, other = (model.vocoder(mel, torch.randn(1, 20, 64)) for _ in range(2))
    assert not torch.allclose(one, other, rtol=0.01)


def test_a_checkpoint_keeps_it(model: SoundingModel, tmp_path: Path) -> None:
    file = tmp_path / "vocos.safetensors"
    model.save_pretrained(file)
    loaded = sounding.load(file, device="cpu")
    assert isinstance(loaded.vocoder, Vocos)
    mel = torch.randn(1, 20, 64)
    torch.testing.assert_close(loaded.vocode(mel), copy.deepcopy(model).half().float().vocode(mel))  # it holds float16


def test_its_size_is_foreseen(config: SoundingConfig) -> None:
    wide = dataclasses.replace(config, vocoder=VocoderConfig(network="vocos", width=256, hidden=768))
    real = sum(parameter.numel() for parameter in Vocos(wide.vocoder, wide.audio).parameters())
    assert parameters(wide)["vocoder"] == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(
    ("size", "said"), [(300, "vocoder.fft_size is 300"), (641, "an even number"), (2048, "eight times")]
)
def test_an_stft_that_cannot_be_inverted_is_refused(config: SoundingConfig, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_consistency(dataclasses.replace(config, vocoder=dataclasses.replace(config.vocoder, fft_size=size)))


def test_noise_is_for_vocos_alone(config: SoundingConfig) -> None:
    with pytest.raises(ValueError, match=r"vocoder\.noise is true, but vocoder\.network is hifigan"):
        dataclasses.replace(config, vocoder=VocoderConfig(noise=True))
