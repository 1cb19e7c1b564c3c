"""Wav2CLIP and CLIP against their formulas and open_clip, with random weights of the published structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from sounding.convert import clip
from sounding.weights import WeightsError
from training.evaluate.features import open_model
from training.evaluate.models import wav2clip
from training.evaluate.models.pixels import clip_pixels
from training.evaluate.models.wav2clip import ClipScore, Wav2Clip, spectrogram

TINY = {"embed_dim": 512, "vision_cfg": {"width": 64, "layers": 1, "patch_size": 32, "image_size": 224}}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The tensors of a published file, with one of the towers that are left out."""
    torch.manual_seed(0)
    made = Wav2Clip().state_dict()
    for name, value in made.items():
        if "running" in name or name.endswith("bias"):
            made[name] = torch.rand_like(value) + ("var" in name)
    return made | {"audio_encoder.spectrogram.window": torch.zeros(512), "image_transform.x.weight": torch.zeros(2)}


@pytest.fixture
def folder(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """weights/wav2clip and weights/clip-b32 with a CLIP that is narrower than ViT-B/32."""
    described: dict[str, Any] = TINY | {"text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1}}
    (tmp_path / "tiny-b32.json").write_text(json.dumps(described))
    open_clip.add_model_config(tmp_path / "tiny-b32.json")
    monkeypatch.setitem(clip.MODELS, (64, 1, 32, 512, 224), "tiny-b32")
    monkeypatch.setattr(wav2clip, "CLIP", "tiny-b32")
    for name in ("wav2clip", "clip-b32"):
        (tmp_path / name).mkdir()
    torch.save(state, tmp_path / "wav2clip" / "Wav2CLIP.pt")
    torch.manual_seed(1)
    save_file(open_clip.create_model("tiny-b32").state_dict(), tmp_path / "clip-b32" / "open_clip_model.safetensors")
    (tmp_path / "clip-b32" / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    return tmp_path


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published forward pass of spectrograms [B, 1, 257, T], written with functions only."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, padding: int = 1) -> Tensor:
        x = functional.conv2d(x, state[f"audio_encoder.{name}.weight"], stride=stride, padding=padding)
        values = (state[f"audio_encoder.{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *values)

    x = functional.max_pool2d(conv(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = conv(conv(x, f"{name}.conv1", f"{name}.bn1", stride).relu(), f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", 2, 0)
            x = (x + y).relu()
    x = x.mean(dim=(2, 3))
    names = [f"audio_transform.sequential.{at}" for at in (0, 3)]
    for name in names:
        x = functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = x.relu() if name == names[0] else x
    return x


def test_published_files_are_read(state: dict[str, Tensor], folder: Path) -> None:
    model = open_model(folder / "wav2clip" / "Wav2CLIP.pt")
    assert isinstance(model, ClipScore)
    assert (model.metric, model.scale, model.width) == ("cs", 100.0, 512)
    sounds, image = 0.3 * torch.randn(2, 20_000), torch.rand(3, 250, 240)
    found = model.embed_sounds(sounds, 16_000)
    torch.testing.assert_close(found, by_hand(state, spectrogram(sounds)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.embed_sounds(sounds[:1], 16_000), found[:1])  # whatever else is in the batch
    torch.manual_seed(1)
    peer = open_clip.create_model("tiny-b32").eval()
    with torch.no_grad():
        expected = peer.encode_image(clip_pixels(image)[None])
    torch.testing.assert_close(model.embed_images([image], [None]), expected, atol=1e-5, rtol=1e-4)
    (folder / "clip-b32").rename(folder / "wav2clip" / "clip-b32")
    assert open_model(folder / "wav2clip" / "Wav2CLIP.pt").name == model.name


def test_front_end() -> None:
    sound = 0.3 * np.random.default_rng(0).standard_normal(8000)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = np.pad(sound, 256, mode="reflect")
    frames = np.stack([padded[at : at + 512] * hann for at in range(0, len(padded) - 511, 353)], axis=-1)
    logs = np.log(np.abs(np.fft.rfft(frames, axis=0)) ** 2 + 1e-7)
    expected = (logs - logs.mean()) / logs.std(ddof=1)
    found = spectrogram(torch.tensor(sound, dtype=torch.float32)[None])
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-3)


def test_the_published_size(state: dict[str, Tensor]) -> None:
    """A ResNet-18 for one channel, without its classes, and two layers of 512."""
    count = sum(value.numel() for value in Wav2Clip().parameters())
    assert count == 11_689_512 - 513_000 - 6272 + 2 * (512 * 512 + 512)


def test_what_is_not_there_is_said(state: dict[str, Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "wav2clip" / "Wav2CLIP.pt"
    monkeypatch.setattr(wav2clip, "CLIP", "ViT-B-32")
    with pytest.raises(WeightsError, match="does not hold CLIP ViT-B-32"):
        open_model(file)
    (folder / "clip-b32").rename(folder / "elsewhere")
    with pytest.raises(WeightsError, match="sounding fetch clip-b32"):
        open_model(file)
    torch.save(state | {"audio_transform.sequential.0.bias": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match=r"sequential\.0\.bias has shape \(3,\)"):
        open_model(file)
