"""HiFi-GAN in each published form against transformers and the AudioLDM authors' own code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sounding.config import SoundingConfig
from sounding.convert.assemble import _fill
from sounding.convert.hifigan import read_hifigan
from sounding.networks.build import build_vocoder
from sounding.weights import WeightsError

from .published_weights import bare_package, louder


@pytest.fixture
def hifigan_peer() -> SpeechT5HifiGan:
    config = SpeechT5HifiGanConfig(
        model_in_dim=64,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        normalize_before=False,
    )
    peer = SpeechT5HifiGan(config).eval().requires_grad_(False)
    louder(peer)
    return peer


@pytest.mark.parametrize("form", ["folder", "generator", "generator, newer names", "generator with its config"])
def test_vocoder_is_the_same_from_every_form(form: str, hifigan_peer: SpeechT5HifiGan, tmp_path: Path) -> None:
    path = tmp_path / "vocoder"
    mel = torch.randn(2, 20, 64)
    if form == "folder":
        hifigan_peer.save_pretrained(path)
    else:
        normed = torch.nn.utils.parametrizations.weight_norm if "newer" in form else torch.nn.utils.weight_norm
        for module in list(hifigan_peer.modules()):
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                normed(module)
        for name, weight in hifigan_peer.named_parameters():
            if name.endswith(("weight_g", "original0")):
                weight.data.mul_(1.1)  # so that the magnitude matters
        state = {
            n.replace("upsampler", "ups"): v for n, v in hifigan_peer.state_dict().items() if n not in ("mean", "scale")
        }
        torch.save({"generator": state}, tmp_path / "vocoder.pt")
        path = tmp_path / "vocoder.pt"
        if "config" in form:
            written = {"upsample_rates": [5, 4, 2, 2, 2], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "resblock": "1"}
            (tmp_path / "config.json").write_text(json.dumps(written))
    converted = read_hifigan(path)
    ours = build_vocoder(SoundingConfig(vocoder=converted.config)).requires_grad_(False)
    _fill(ours, converted, path)
    with torch.no_grad():
        expected = hifigan_peer(mel)
    assert 1e-3 < expected.abs().max() < 0.99
    assert (ours(mel) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_strides_that_nothing_says(hifigan_peer: SpeechT5HifiGan, tmp_path: Path) -> None:
    state = {name.replace("upsampler", "ups"): value for name, value in hifigan_peer.state_dict().items()}
    state["ups.0.weight"] = torch.zeros(64, 32, 20)
    torch.save(state, tmp_path / "generator.pt")
    with pytest.raises(WeightsError, match=r"upsamples with kernels \(20, 16, 8, 4, 4\).*config.json beside it"):
        read_hifigan(tmp_path / "generator.pt")


@pytest.mark.skipif(not importlib.util.find_spec("audioldm"), reason="the audioldm package is not installed")
def test_vocoder_is_the_authors_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_package("audioldm", monkeypatch)
    from audioldm.hifigan.models import Generator

    settings = SimpleNamespace(
        num_mels=64,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        resblock_kernel_sizes=[3, 7, 11],
        resblock_dilation_sizes=[[1, 3, 5]] * 3,
    )
    peer = Generator(settings).eval().requires_grad_(False)
    louder(peer)
    torch.save({"generator": peer.state_dict()}, tmp_path / "g_00000001")
    converted = read_hifigan(tmp_path / "g_00000001")
    ours = build_vocoder(SoundingConfig(vocoder=converted.config)).requires_grad_(False)
    _fill(ours, converted, tmp_path)
    mel = torch.randn(1, 20, 64)
    expected = peer(mel.transpose(1, 2))[:, 0]
    assert (ours(mel) - expected).abs().max() <= 1e-5 * expected.abs().max()
