"""PaSST against its formulas written with functions, with random weights of the published structure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.evaluate.features import open_features
from training.evaluate.models.passt import Passt, PasstFeatures


@pytest.fixture(scope="module")
def narrow() -> Passt:
    torch.manual_seed(0)
    network = Passt(5, width=128, depth=2).eval()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return network


def kaldi_filters() -> np.ndarray:
    """Kaldi's mel bank of 128 bands, 0..15 kHz: [128, 513]."""

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    bins = mel(np.arange(513) * 32_000 / 1024)
    step = (mel(15_000) - mel(0)) / 129
    centres = mel(0) + step * np.arange(1, 129)[:, None]
    return np.maximum(0, 1 - np.abs(bins - centres) / step)


def by_hand_mel(sound: np.ndarray) -> np.ndarray:
    raised = sound[:, 1:] - 0.97 * sound[:, :-1]
    window = np.pad(np.hanning(800), 112)
    padded = np.pad(raised, ((0, 0), (512, 512)), mode="reflect")
    starts = range(0, padded.shape[1] - 1023, 320)
    power = np.stack([np.abs(np.fft.rfft(padded[:, at : at + 1024] * window)) ** 2 for at in starts], axis=-1)
    return (np.log(kaldi_filters() @ power + 1e-5) + 4.5) / 5


def test_front_end(narrow: Passt) -> None:
    sound = 0.3 * np.random.default_rng(0).standard_normal((2, 20_000))
    found = narrow.spectrogram(torch.tensor(sound, dtype=torch.float32))
    np.testing.assert_allclose(found, by_hand_mel(sound), atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("torchaudio"), reason="torchaudio is not installed")
def test_filters_are_kaldis(narrow: Passt) -> None:
    from torchaudio.compliance.kaldi import get_mel_banks

    expected = get_mel_banks(128, 1024, 32_000, 0.0, 15_000.0, 100.0, -500.0, 1.0)[0]
    torch.testing.assert_close(narrow.filters.T, functional.pad(expected, (0, 1)), atol=2e-4, rtol=0)


def by_hand(state: dict[str, Tensor], mel: Tensor) -> tuple[Tensor, Tensor]:
    """The published forward pass of [B, 128, T], written with functions only."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    x = functional.conv2d(mel[:, None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 10)
    x = x + state["time_new_pos_embed"][..., : x.shape[-1]] + state["freq_new_pos_embed"]
    tokens = [state["cls_token"] + state["new_pos_embed"][:, :1], state["dist_token"] + state["new_pos_embed"][:, 1:]]
    x = torch.cat([*(token.repeat(len(mel), 1, 1) for token in tokens), x.flatten(2).mT], dim=1)
    for block in range(2):
        name = f"blocks.{block}"
        query, key, value = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=-1)
        parts = []
        for head in range(2):
            own = slice(64 * head, 64 * head + 64)
            weights = (query[..., own] @ key[..., own].mT / 8).softmax(dim=-1)
            parts.append(weights @ value[..., own])
        x = x + linear(torch.cat(parts, dim=-1), f"{name}.attn.proj")
        x = x + linear(functional.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    x = norm(x, "norm")
    features = (x[:, 0] + x[:, 1]) / 2
    return features, linear(norm(features, "head.0", 1e-5), "head.1")


def test_a_published_file_is_read(narrow: Passt, tmp_path: Path) -> None:
    torch.save(narrow.state_dict(), tmp_path / "passt.pt")
    model = open_features(tmp_path / "passt.pt")
    assert isinstance(model, PasstFeatures)
    assert (model.rate, model.width, model.classes) == (32_000, 128, ("0", "1", "2", "3", "4"))
    sound = 0.3 * torch.randn(2, 32_000)
    embeddings = model.embed(sound, 32_000)
    expected = by_hand(narrow.state_dict(), torch.tensor(by_hand_mel(sound.double().numpy())).float())
    torch.testing.assert_close(embeddings, expected[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.logits(embeddings), expected[1], atol=1e-3, rtol=1e-3)


def test_ten_seconds_are_heard(narrow: Passt) -> None:
    """Ten seconds fill the learned positions; what follows is left out."""
    assert narrow.spectrogram(torch.zeros(1, 320_000)).shape[-1] == 1000
    sound = torch.cat([torch.randn(1, 320_000), torch.ones(1, 9)], dim=1)
    torch.testing.assert_close(narrow(sound), narrow(sound[:, :-9]))


def test_the_published_size() -> None:
    """Names and shapes of the published file; its transformer is ViT-B (85.8 million parameters with a patch stem)."""
    with torch.device("meta"):
        state = Passt(527).state_dict()
    assert state["freq_new_pos_embed"].shape == (1, 768, 12, 1)
    assert state["time_new_pos_embed"].shape == (1, 768, 1, 99)
    assert state["patch_embed.proj.weight"].shape == (768, 1, 16, 16)
    assert state["blocks.11.attn.qkv.weight"].shape == (2304, 768)
    assert state["head.1.weight"].shape == (527, 768)
    assert len(state) == 5 + 2 + 12 * 12 + 2 + 4 + 2


def test_other_tensors_are_refused(narrow: Passt, tmp_path: Path) -> None:
    state = narrow.state_dict()
    for change, said in (
        ({"time_new_pos_embed": torch.zeros(1, 128, 1, 200)}, r"positions are learned for \(12, 200\)"),  # another hop
        ({"head_dist.bias": torch.zeros(6)}, r"head_dist\.bias has shape \(6,\)"),
        ({"blocks.2.norm1.bias": torch.zeros(128)}, "is missing"),
    ):
        torch.save(state | change, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=said):
            open_features(tmp_path / "x.pt")
