"""CNN14 against the authors' own front end and network, with random weights of the true structure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.evaluate.features import open_features
from training.evaluate.models.panns import FRONT_ENDS, WINDOW, Cnn14, PannsFeatures


def published(network: Cnn14) -> dict[str, Tensor]:
    """The tensors of a published file."""
    size = network.front_end.fft
    return network.state_dict() | {WINDOW: torch.zeros(size // 2 + 1, 1, size), "logmel_extractor.melW": torch.zeros(1)}


@pytest.fixture(params=FRONT_ENDS)
def narrow(request: pytest.FixtureRequest) -> Cnn14:
    network = Cnn14(FRONT_ENDS[request.param], 5, width=2).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    network.bn0.running_var.fill_(400)
    return network


@pytest.mark.skipif(not importlib.util.find_spec("torchlibrosa"), reason="torchlibrosa is not installed")
def test_front_end_is_the_authors(narrow: Cnn14) -> None:
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    end = narrow.front_end
    spectrogram = Spectrogram(end.fft, end.hop, end.fft, freeze_parameters=True)
    logmel = LogmelFilterBank(
        sr=end.rate, n_fft=end.fft, n_mels=64, fmin=end.low, fmax=end.high, ref=1.0, amin=1e-10, top_db=None
    )
    sound = 0.1 * torch.randn(2, end.rate // 2)
    expected = logmel(spectrogram(sound))
    torch.testing.assert_close(narrow.spectrogram(sound), expected, atol=2e-3, rtol=1e-4)


def by_hand(state: dict[str, Tensor], mel: Tensor) -> tuple[Tensor, Tensor]:
    """The published forward pass, written with functions only."""

    def norm(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *values)

    x = norm(mel.transpose(1, 3), "bn0").transpose(1, 3)
    for block in range(1, 7):
        for conv in (1, 2):
            x = functional.conv2d(x, state[f"conv_block{block}.conv{conv}.weight"], padding=1)
            x = functional.relu(norm(x, f"conv_block{block}.bn{conv}"))
        x = functional.avg_pool2d(x, (2, 2) if block < 6 else (1, 1))
    x = x.mean(dim=3)
    x = x.max(dim=2)[0] + x.mean(dim=2)
    embedding = functional.relu(functional.linear(x, state["fc1.weight"], state["fc1.bias"]))
    return embedding, functional.linear(embedding, state["fc_audioset.weight"], state["fc_audioset.bias"])


def test_a_published_file_is_read(narrow: Cnn14, tmp_path: Path) -> None:
    torch.save({"iteration": 600_000, "model": published(narrow)}, tmp_path / "Cnn14.pth")
    model = open_features(tmp_path / "Cnn14.pth")
    assert isinstance(model, PannsFeatures)
    assert model.rate == narrow.front_end.rate
    sound = 0.1 * torch.randn(2, model.rate)
    embeddings = model.embed(sound, model.rate)
    expected = by_hand(narrow.state_dict(), narrow.spectrogram(sound))
    torch.testing.assert_close(embeddings, expected[0])
    torch.testing.assert_close(model.logits(embeddings), expected[1])
    assert model.classes == ("0", "1", "2", "3", "4")
    (tmp_path / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n" + "".join(f'{n},/m/{n},"Sound, {n}"\n' for n in range(5))
    )
    assert open_features(tmp_path / "Cnn14.pth").classes[3] == "Sound, 3"
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/0,Speech\n")
    with pytest.raises(ValueError, match="does not name 5 classes"):
        open_features(tmp_path / "Cnn14.pth")


def test_the_published_size() -> None:
    """Names and shapes of the published file: 80.8 million parameters (Kong et al., 2020)."""
    network = Cnn14(FRONT_ENDS[1024], 527)
    assert sum(value.numel() for value in network.parameters()) == 80_753_615
    assert network.state_dict()["conv_block6.conv2.weight"].shape == (2048, 2048, 3, 3)
    assert network.state_dict()["fc_audioset.weight"].shape == (527, 2048)


def test_other_tensors_are_refused(narrow: Cnn14, tmp_path: Path) -> None:
    state = published(narrow)
    torch.save({"model": state | {WINDOW: torch.zeros(3, 1, 4)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="the window has 4 samples"):
        open_features(tmp_path / "x.pth")
    state.pop("fc1.bias")
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"fc1\.bias"):
        open_features(tmp_path / "x.pth")
