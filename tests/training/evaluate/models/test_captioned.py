"""The stand-in for AVC's encoders: what it computes, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig
from sounding.model import SoundingModel
from training.evaluate.audiovisual import AudioVisualModel
from training.evaluate.features import open_features, open_model
from training.evaluate.models.captioned import CAPTIONED, Captioned, CaptionedClasses, write_captioned
from training.evaluate.models.classifier import Classifier

CAPTIONS = ("a cat", "a dog", "an owl")


@pytest.fixture(scope="module")
def parts(tiny_model: SoundingModel) -> tuple[Captioned, Classifier, torch.Tensor]:
    torch.manual_seed(0)
    about = Captioned(CAPTIONS, tiny_model.config.patches, "tiny")
    return about, Classifier(3, width=4).eval(), torch.randn(3, tiny_model.config.patches.width)


@pytest.fixture(scope="module")
def file(
    parts: tuple[Captioned, Classifier, torch.Tensor],
    tiny_model: SoundingModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    about, classifier, captions = parts
    path = tmp_path_factory.mktemp("captioned") / "avc.safetensors"
    write_captioned(path, about, classifier, tiny_model.patches, captions)
    return path


def test_sounds_and_images_are_embedded_by_captions_and_patches(
    parts: tuple[Captioned, Classifier, torch.Tensor], file: Path, tiny_model: SoundingModel
) -> None:
    model = open_model(file)
    assert isinstance(model, CaptionedClasses)
    assert isinstance(model, AudioVisualModel)
    assert (model.metric, model.width) == ("avc", 16)
    assert model.name.startswith("stand-in for AVC: classifier of 3 classes with the captions of tiny, sha256")
    _, classifier, captions = parts
    sounds = torch.randn(2, 16_000)
    with torch.inference_mode():
        likely = classifier(MelSpectrogram(AudioConfig())(sounds)).softmax(dim=1)
    expected = sum(likely[:, c : c + 1] * captions[c] / captions[c].norm() for c in range(3))
    torch.testing.assert_close(model.embed_sounds(sounds, 16_000), expected)
    image = torch.rand(3, 160, 160)
    patches = functional.normalize(tiny_model.see(image.movedim(0, -1)[None])[0], dim=-1)
    one_cell = torch.zeros(160, 160)
    one_cell[32:64, :32] = 1  # the first cell of the second row of five
    masked, whole = model.embed_images([image, image], [one_cell, None])
    torch.testing.assert_close(masked, patches[5])
    torch.testing.assert_close(whole, patches.mean(dim=0))


def test_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of sounds is expected"):
        open_features(file)
    state = load_file(file)
    for header, tensors in (
        ("{", state),
        ("[]", state),
        ('{"captions": [], "patches": {}, "checkpoint": ""}', state),
        ('{"captions": ["a"], "patches": {"model": "hf-hub:x"}, "checkpoint": "x"}', state),
        (
            '{"captions": ["a", "b", "c"], "patches": {"width": 16}, "checkpoint": "x"}',
            state | {"captions": torch.ones(2)},
        ),
    ):
        save_file(tensors, tmp_path / "x.safetensors", metadata={CAPTIONED: header})
        with pytest.raises(ValueError, match="no classifier with captions"):
            open_model(tmp_path / "x.safetensors")


def test_numbers_have_to_fit(parts: tuple[Captioned, Classifier, torch.Tensor], tmp_path: Path) -> None:
    about, classifier, captions = parts
    with pytest.raises(ValueError, match="3 captions, 2 embeddings and 3 classes"):
        write_captioned(tmp_path / "x", about, classifier, torch.nn.Identity(), captions[:2])
