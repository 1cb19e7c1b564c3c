"""float16 ends at 65504: where the VAE or the vocoder passes it, the result is float32's all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sounding
from sounding.audio.mel import MelSpectrogram
from sounding.config import PARTS
from sounding.model import SoundingModel
from sounding.networks.codec import in_range, vocoded


def half(model: SoundingModel, scale: Callable[[SoundingModel], None]) -> tuple[SoundingModel, SoundingModel]:
    """A model in float16 after `scale` changed its weights, and the same weights in float32."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        scale(model)
    model = model.half()
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    return model, copy.deepcopy(model).float()


def loud_vae(model: SoundingModel) -> None:
    """Norms take the size away again, so that the results are ordinary."""
    model.vae.decoder.conv_in.weight.mul_(1e5)
    model.vae.encoder.conv_in.weight.mul_(1e5)


def loud_vocoder(model: SoundingModel) -> None:
    """Numbers of some 1e6 before the last layer, which makes ordinary ones of them."""
    vocoder, mel, inside = model.vocoder, torch.randn(2, 20, 64), []
    for layer in (vocoder.conv_pre, vocoder.upsampler[0], vocoder.conv_post):
        layer.bias.zero_()
    with vocoder.conv_post.register_forward_hook(lambda module, inputs, output: inside.append((inputs[0], output))):
        vocoder(mel)
        grow = 1e6 / float(inside[0][0].abs().max())
        vocoder.conv_pre.weight.mul_(grow**0.5)
        vocoder.upsampler[0].weight.mul_(grow**0.5)
        vocoder(mel)
    vocoder.conv_post.weight.mul_(0.5 / float(inside[1][1].abs().max()))


def relative(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).abs().max() / expected.abs().max())


def test_decoding_that_overflows_is_float32s(tiny_model: SoundingModel) -> None:
    model, exact = half(tiny_model, loud_vae)
    latents = torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        assert not model.vae.decode(latents.half()).sample.isfinite().all(), "the weights do not overflow"
    made, expected = model.decode(latents), exact.decode(latents)
    assert expected.abs().max() < 100
    assert relative(made, expected) < 1e-3
    assert {weight.dtype for weight in model.vae.parameters()} == {torch.float16}  # the part stays as it was


def test_encoding_that_overflows_is_float32s(tiny_model: SoundingModel) -> None:
    model, exact = half(tiny_model, loud_vae)
    sound = 0.1 * torch.randn(1, 8000)
    made, expected = model.encode(sound), exact.encode(sound)
    assert expected.abs().max() < 100
    assert relative(made, expected) < 1e-3


def test_vocoding_that_overflows_is_float32s(tiny_model: SoundingModel) -> None:
    model, exact = half(tiny_model, loud_vocoder)
    mel = torch.randn(2, 20, 64)
    inside: list[Tensor] = []
    with (
        torch.no_grad(),
        exact.vocoder.conv_post.register_forward_hook(lambda m, x, y: inside.append(x[0].abs().max())),
    ):
        expected = exact.vocode(mel)
    assert inside[0] > 65504, "the weights do not overflow"
    assert 1e-3 < expected.abs().max() < 0.9
    assert relative(model.vocode(mel), expected) < 1e-3
    assert {weight.dtype for weight in model.vocoder.parameters()} == {torch.float16}


def test_an_overflow_that_tanh_hides_is_seen() -> None:
    """tanh makes an ordinary 1 of infinity."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_post = nn.Identity()

        def forward(self, hidden: Tensor) -> Tensor:
            return self.conv_post(hidden).tanh()

    hidden = torch.tensor([[0.5, 1e5]])
    assert Last()(hidden.half()).isfinite().all()
    assert vocoded(Last(), hidden.half()).isnan().all()  # type: ignore[arg-type]
    assert torch.equal(vocoded(Last(), hidden), hidden.tanh())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "result", "expected"),
    [
        (torch.float16, 0.0, [torch.float16]),
        (torch.float16, torch.nan, [torch.float16, torch.float32]),
        (torch.bfloat16, torch.nan, [torch.bfloat16]),  # it has float32's range: what is wrong there stays wrong
        (torch.float32, torch.nan, [torch.float32]),
    ],
)
def test_only_overflow_costs_a_second_run(dtype: torch.dtype, result: float, expected: list[torch.dtype]) -> None:
    runs: list[torch.dtype] = []

    def run(part: nn.Module) -> Tensor:
        runs.append(next(part.parameters()).dtype)
        return torch.full((1,), result)

    in_range(nn.Linear(1, 1).to(dtype), run)
    assert runs == expected


@pytest.mark.slow
def test_the_starter_stays_in_range_on_real_sounds() -> None:
    """Bursts of noise over a tone through decoder and vocoder in float16, without a fallback."""
    exact = sounding.load("starter", device="cpu", parts=("vae", "vocoder"))
    model = sounding.load("starter", device="cpu", dtype=torch.float16, parts=("vae", "vocoder"))
    times = torch.arange(exact.config.train_samples // 2) / exact.config.audio.sample_rate
    bursts = 0.3 * torch.randn(1, len(times)) * (torch.sin(4 * torch.pi * times) > 0.5) + 0.2 * torch.sin(900 * times)
    latents = exact.encode(bursts)
    decoded = exact.decode(latents)
    with torch.no_grad():
        mel = model.vae.decode((latents / model.config.vae.scale).half()).sample
        waveform = vocoded(model.vocoder, decoded.half())
    assert mel.isfinite().all()
    assert waveform.isfinite().all()
    assert (model.decode(latents) - decoded).abs().mean() < 0.02  # of some 12 nepers
    spectrum = MelSpectrogram(exact.config.audio)
    difference = spectrum(model.vocode(decoded)[:, 0]) - spectrum(exact.vocode(decoded)[:, 0])
    assert difference.abs().mean() < 0.1


def test_vae_and_vocoder_take_no_bfloat16(tiny_checkpoint: Path, tiny_model: SoundingModel) -> None:
    """Asked for as a file is read, or brought about afterwards."""
    model = sounding.load(tiny_checkpoint, device="cpu", dtype=torch.bfloat16)
    kinds = {part: next(getattr(model, part).parameters()).dtype for part in PARTS}
    assert {part for part, kind in kinds.items() if kind == torch.float32} == {"vae", "vocoder"}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    mel = tiny_model.decode(latents)
    assert torch.equal(model.decode(latents), mel)
    assert torch.equal(model.vocode(mel), tiny_model.vocode(mel))
    wave = 0.3 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.encode(wave), tiny_model.encode(wave))

    moved = copy.deepcopy(tiny_model).to(torch.bfloat16)
    exact = copy.deepcopy(moved).float()
    assert torch.equal(moved.decode(latents), exact.decode(latents))
    assert torch.equal(moved.vocode(mel), exact.vocode(mel))
    assert torch.equal(moved.encode(wave), exact.encode(wave))
    assert next(moved.vae.parameters()).dtype == torch.bfloat16  # the part stays as it was
