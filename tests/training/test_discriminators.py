"""Discriminators against their published sizes and plain restatements; losses against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.tasks.discriminators import (
    PERIODS,
    Critic,
    MelCritic,
    WaveformCritic,
    adversarial_loss,
    critic_loss,
    feature_matching,
)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        waveform, mel = WaveformCritic(), MelCritic()
    # in * out * kernel, a bias and a weight-norm scale an output channel: 32, 128, 512, 1024, 1024, 1.
    period = (
        (5 * 32 + 2 * 32)
        + (5 * 32 * 128 + 2 * 128)
        + (5 * 128 * 512 + 2 * 512)
        + (5 * 512 * 1024 + 2 * 1024)
        + (5 * 1024 * 1024 + 2 * 1024)
        + (3 * 1024 + 2)
    )
    assert count(waveform.periods) == 5 * period == 41_105_770  # published as 41.1 M
    # out * in / groups * kernel.
    weights = (
        128 * 15
        + 128 * (128 // 4) * 41
        + 256 * (128 // 16) * 41
        + 512 * (256 // 16) * 41
        + 1024 * (512 // 16) * 41
        + 1024 * (1024 // 16) * 41
        + 1024 * 1024 * 5
        + 1024 * 3
    )
    channels = 128 + 128 + 256 + 512 + 1024 + 1024 + 1024 + 1
    # Spectral norm has no parameters of its own, the two weight-normed scales have a scale a channel.
    assert count(waveform.scales) == 3 * (weights + channels) + 2 * channels == 29_618_821
    # Isola et al.'s 70 x 70: C64-C128-C256-C512-1, kernels of 4 x 4; biases first and last, norms have two a channel.
    patches = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 2 * (128 + 256 + 512) + 1
    assert count(mel) == patches == 2_763_585


def test_shapes_of_the_maps() -> None:
    maps = WaveformCritic(1 / 16)(torch.randn(2, 3001))
    assert len(maps) == 8
    for period, layers in zip(PERIODS, maps, strict=False):
        time = math.ceil(3001 / period)
        for layer, width in zip(layers[:4], (2, 8, 32, 64), strict=True):
            time = math.ceil(time / 3)
            assert layer.shape == (2, width, time, period)
        assert layers[-1].shape == (2, 1, time, period)
    for scale, layers in enumerate(maps[5:]):
        time = (3001, 1501, 751)[scale]
        for layer, (width, stride) in zip(
            layers, ((8, 1), (8, 2), (16, 2), (32, 4), (64, 4), (64, 1), (64, 1), (1, 1)), strict=True
        ):
            time = math.ceil(time / stride)
            assert layer.shape == (2, width, time)
    (layers,) = MelCritic(1 / 16)(torch.randn(2, 1, 128, 64))
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (4, 64, 32),
        (8, 32, 16),
        (16, 16, 8),
        (32, 15, 7),
        (1, 14, 6),
    ]


def test_a_period_is_a_one_dimensional_network_over_every_nth_sample() -> None:
    critic = WaveformCritic(1 / 32).double().eval()
    sound = torch.randn(1, 1000, dtype=torch.float64)
    score = critic(sound)[PERIODS.index(7)][-1]  # [1, 1, T, 7]
    own = critic.periods[PERIODS.index(7)]
    padded = torch.cat([sound, sound[:, 998:999]], dim=1)  # 1001 samples, mirrored at the last one
    for phase in range(7):
        x = padded[:, None, phase::7]
        for layer, stride in zip(own.convolutions, (3, 3, 3, 3, 1), strict=True):
            x = functional.leaky_relu(functional.conv1d(x, layer.weight[..., 0], layer.bias, stride, 2), 0.1)
        x = functional.conv1d(x, own.score.weight[..., 0], own.score.bias, padding=1)
        torch.testing.assert_close(score[..., phase], x)


def test_scales_see_averages_and_the_first_is_spectrally_normed() -> None:
    critic = WaveformCritic(1 / 32).double()
    sound = torch.randn(2, 800, dtype=torch.float64)
    for _ in range(40):  # power iterations until the estimate has settled
        critic.scales[0](sound[:, None, :64])
    critic.eval()
    for layer in critic.scales[0].convolutions:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, rel=1e-2)
    averaged = functional.pad(sound, (2, 2)).unfold(1, 4, 2).mean(-1)
    for expected, given in zip(critic.scales[1](averaged[:, None]), critic(sound)[6], strict=True):
        torch.testing.assert_close(given, expected)


def test_a_patch_sees_seventy_frames_and_bands() -> None:
    critic = MelCritic(1 / 16).double()
    for module in critic.modules():  # a norm over the picture sees all of it
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    mel = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    (maps,) = critic(mel)
    maps[-1][0, 0, 7, 7].backward()
    assert mel.grad is not None
    touched = mel.grad[0, 0].abs().sum(1).nonzero()
    assert int(touched.max() - touched.min()) + 1 == 70


def test_losses_of_constant_scores() -> None:
    def maps(score: float, feature: float) -> list[list[Tensor]]:
        return [[torch.full((2, 3, 5), feature), torch.full((2, 1, length), score)] for length in (4, 9, 2)]

    real, made = maps(0.75, 1.0), maps(0.5, -1.5)
    assert float(critic_loss(real, made)) == pytest.approx(3 * (0.25**2 + 0.5**2))
    assert float(adversarial_loss(made)) == pytest.approx(3 * 0.5**2)
    assert float(feature_matching(real, made)) == pytest.approx(3 * (2.5 + 0.25))
    assert float(critic_loss(maps(1, 0), maps(0, 0))) == 0
    assert float(adversarial_loss(maps(1, 0))) == 0


@pytest.mark.parametrize("kind", ["waveform", "mel"])
def test_half_batches_average_to_the_whole(kind: str) -> None:
    critic: Critic = (WaveformCritic(1 / 32) if kind == "waveform" else MelCritic(1 / 16)).double().eval()
    shape = (4, 1000) if kind == "waveform" else (4, 1, 40, 64)
    real, made = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)

    def losses(part: slice) -> Tensor:
        a, b = critic(real[part]), critic(made[part])
        return torch.stack([critic_loss(a, b), adversarial_loss(b), feature_matching(a, b)])

    halves = (losses(slice(0, 2)) + losses(slice(2, 4))) / 2
    torch.testing.assert_close(losses(slice(0, 4)), halves)


def test_gradients_reach_all_weights_and_the_made_sound_only() -> None:
    critic = WaveformCritic(1 / 32)
    real, made = torch.randn(2, 600, requires_grad=True), torch.randn(2, 600, requires_grad=True)
    critic_loss(critic(real.detach()), critic(made.detach())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())
    feature_matching(critic(real), critic(made)).backward()
    assert real.grad is None
    assert made.grad is not None
    assert (made.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("kind", ["waveform", "mel"])
def test_a_tiny_critic_learns_tones_from_noise(kind: str) -> None:
    rows = torch.Generator().manual_seed(1)

    def batch() -> tuple[Tensor, Tensor]:
        if kind == "waveform":
            hertz = 200 + 1800 * torch.rand(8, 1, generator=rows)
            phase = 6.28 * torch.rand(8, 1, generator=rows)
            tone = 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(256) / 16000 + phase)
            return tone, 0.35 * torch.randn(8, 256, generator=rows)
        bands = torch.randint(0, 32, (8,), generator=rows)
        tone = functional.one_hot(bands, 32).float()[:, None, None, :].expand(8, 1, 32, 32) * 4
        return tone + 0.1 * torch.randn(tone.shape, generator=rows), torch.randn(8, 1, 32, 32, generator=rows)

    critic: Critic = WaveformCritic(1 / 16) if kind == "waveform" else MelCritic(1 / 16, layers=2)
    optimizer = torch.optim.AdamW(critic.parameters(), 5e-3, betas=(0.8, 0.99))
    for _ in range(30):
        real, made = batch()
        optimizer.zero_grad()
        critic_loss(critic(real), critic(made)).backward()
        optimizer.step()
    critic.eval()
    real, made = batch()
    of_real, of_made = (
        torch.stack([layers[-1].detach().flatten(1).mean(1) for layers in critic(x)]).mean(0) for x in (real, made)
    )  # an item's score over all sub-discriminators
    assert of_real.min() > of_made.max()
    assert of_real.mean() > of_made.mean() + 0.1


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 500\).*\[B, samples\]"):
        WaveformCritic(1 / 64)(torch.zeros(2, 1, 500))
    with pytest.raises(ValueError, match="11 samples or more"):
        WaveformCritic(1 / 64)(torch.zeros(2, 10))
    with pytest.raises(ValueError, match=r"24 frames and bands"):
        MelCritic(1 / 16)(torch.zeros(2, 1, 23, 64))
