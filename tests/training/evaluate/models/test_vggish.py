"""VGGish against its formulas in float64, with random weights of the published structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.evaluate.features import open_features
from training.evaluate.models.vggish import VGGish, VGGishFeatures


@pytest.fixture(scope="module")
def narrow() -> VGGish:
    torch.manual_seed(0)
    return VGGish((2, 3, 4, 5), 6, 7).eval()


def log_mel(sound: np.ndarray) -> np.ndarray:
    """Google's mel_features.py in numpy: [windows, 96, 64]."""

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    bins = mel(np.linspace(0, 8000, 257))
    filters = np.zeros((257, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        filters[:, band] = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))
    starts = range(0, len(sound) - 399, 160)
    frames = np.abs(np.fft.rfft(np.stack([sound[at : at + 400] * hann for at in starts]), 512))
    found = np.log(frames @ filters + 0.01)
    return np.stack([found[at : at + 96] for at in range(0, len(found) - 95, 96)])


@pytest.mark.parametrize(("samples", "windows"), [(15_600, 1), (30_959, 1), (30_960, 2), (40_000, 2)])
def test_front_end(narrow: VGGish, samples: int, windows: int) -> None:
    rng = np.random.default_rng(samples)
    sound = 0.3 * rng.standard_normal((2, samples))
    found = narrow.spectrogram(torch.tensor(sound, dtype=torch.float32))
    assert found.shape == (2, windows, 96, 64)
    assert narrow.windows(samples) == windows
    expected = np.stack([log_mel(one) for one in sound])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def by_hand(state: dict[str, Tensor], mel: Tensor) -> Tensor:
    """The published forward pass of windows [N, 96, 64] without its last activation, written with functions only."""
    x = mel[:, None]
    for layer, pooled in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        x = functional.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1).relu()
        x = functional.max_pool2d(x, 2) if pooled else x
    x = x.transpose(1, 3).transpose(1, 2).reshape(len(x), -1)
    for layer in (0, 2, 4):
        x = functional.linear(x, state[f"embeddings.{layer}.weight"], state[f"embeddings.{layer}.bias"])
        x = x.relu() if layer < 4 else x
    return x


def test_a_published_file_is_read(narrow: VGGish, tmp_path: Path) -> None:
    torch.save(narrow.state_dict() | {"pproc.pca_means": torch.zeros(7, 1)}, tmp_path / "vggish.pth")
    model = open_features(tmp_path / "vggish.pth")
    assert isinstance(model, VGGishFeatures)
    sounds = 0.3 * torch.randn(2, 32_000)
    found = model.embed(sounds, 16_000)
    assert found.shape == (2, model.windows(32_000) * model.width)
    expected = [by_hand(narrow.state_dict(), torch.tensor(log_mel(one.double().numpy())).float()) for one in sounds]
    torch.testing.assert_close(found.unflatten(1, (2, 7)), torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert model.logits(found).shape == (2, 0)


def test_a_short_sound_is_padded(narrow: VGGish) -> None:
    sound = 0.3 * torch.randn(1, 8000)
    torch.testing.assert_close(narrow(sound), narrow(functional.pad(sound, (0, 7600))))


def test_the_published_size() -> None:
    """Names and shapes of the published file: 72.1 million parameters."""
    with torch.device("meta"):
        network = VGGish()
    assert sum(value.numel() for value in network.parameters()) == 72_141_184
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["features.13.weight"] == (512, 512, 3, 3)
    assert shapes["embeddings.0.weight"] == (4096, 12_288)
    assert shapes["embeddings.4.weight"] == (128, 4096)
    assert len(shapes) == 18


def test_other_tensors_are_refused(narrow: VGGish, tmp_path: Path) -> None:
    state = narrow.state_dict()
    for change, said in (
        ({"embeddings.2.weight": torch.zeros(6, 9)}, r"embeddings\.2\.weight has shape \(6, 9\), but \(6, 6\)"),
        ({"x": torch.zeros(1)}, "x is not its own"),
        ({"embeddings.0.bias": torch.zeros(70_000)}, "weight has shape"),  # 20 GB, if it was believed
    ):
        torch.save(state | change, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=said):
            open_features(tmp_path / "x.pth")
    torch.save({name: value for name, value in state.items() if name != "embeddings.2.bias"}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"embeddings\.2\.bias is missing"):
        open_features(tmp_path / "x.pth")
