"""Models behind one interface: same embeddings as the network itself, read safely from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sounding.audio.mel import MelSpectrogram
from sounding.config import AudioConfig, GroundingConfig, QueryConfig, SoundingConfig
from sounding.model import SoundingModel
from training.evaluate.features import open_features
from training.evaluate.models.clap import ClapFeatures
from training.evaluate.models.classifier import Classifier, write_classifier


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(3, width=4).eval()


def test_a_classifier_comes_back_from_its_file(classifier: Classifier, tmp_path: Path) -> None:
    file = tmp_path / "judge.safetensors"
    write_classifier(file, classifier, ["cat", "dog", "owl"])
    model = open_features(file)
    assert model.classes == ("cat", "dog", "owl")
    sounds = torch.randn(2, 16_000)
    embeddings = model.embed(sounds, 16_000)
    assert embeddings.shape == (2, model.width)
    with torch.inference_mode():
        expected = classifier(MelSpectrogram(AudioConfig())(sounds))
    torch.testing.assert_close(model.logits(embeddings), expected)


def test_other_rates_are_resampled(classifier: Classifier, tmp_path: Path) -> None:
    file = tmp_path / "judge.safetensors"
    write_classifier(file, classifier, ["cat", "dog", "owl"])
    model = open_features(file)
    times = torch.arange(96_000) / 48_000
    low, high = torch.sin(2000 * times[::3])[None], torch.sin(2000 * times)[None]
    torch.testing.assert_close(model.embed(high, 48_000), model.embed(low, 16_000), atol=0.05, rtol=0.05)


def test_clap_tower_of_a_checkpoint(tiny_config: SoundingConfig, tmp_path: Path) -> None:
    query = QueryConfig(tower="clap_audio", width=16, hidden=8, heads=1, depths=(1, 1, 1, 1), tokenizer="")
    grounding = replace(tiny_config.grounding, query="audio")
    assert isinstance(grounding, GroundingConfig)
    made = SoundingModel(replace(tiny_config, query=query, grounding=grounding))
    made.save_pretrained(tmp_path / "model.safetensors", dtype=torch.float32)
    model = open_features(tmp_path / "model.safetensors")
    assert isinstance(model, ClapFeatures)
    sounds = torch.randn(2, 24_000)
    embeddings = model.embed(sounds, 48_000)
    assert embeddings.shape == (2, model.width)
    torch.testing.assert_close(embeddings, made.query.encode(sounds, 48_000))
    assert model.logits(embeddings).shape == (2, 0)


def test_other_files_are_refused(tiny_checkpoint: Path, classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a text encoder"):
        open_features(tiny_checkpoint)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.safetensors"):
        open_features(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no model that hears"):
        open_features(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a file"):
        open_features(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="2 names"):
        write_classifier(tmp_path / "x.safetensors", classifier, ["a", "b"])
    write_classifier(tmp_path / "x.safetensors", classifier, ["a", "b", "c"])
    classifier.head[1] = torch.nn.Linear(5, 3)
    write_classifier(tmp_path / "x.safetensors", classifier, ["a", "b", "c"])
    with pytest.raises(ValueError, match="is not a classifier"):
        open_features(tmp_path / "x.safetensors")
