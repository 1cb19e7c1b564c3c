"""CLAP's audio tower from published files: the same embeddings as transformers' own model of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ClapConfig, ClapModel

from sounding.encoders.audio import repeat_to_length
from sounding.weights import WeightsError
from training.evaluate.features import open_features
from training.evaluate.models.clap import ClapFeatures


@pytest.fixture(scope="module")
def peer() -> ClapModel:
    torch.manual_seed(0)
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}
    audio = {"hidden_size": 64, "depths": [1, 1, 1], "num_attention_heads": [2, 4, 8], "patch_embeds_hidden_size": 16}
    made = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24)).eval().requires_grad_(False)
    made.audio_model.audio_encoder.batch_norm.running_var.fill_(100)
    return made


def test_a_folder_of_transformers_is_read(peer: ClapModel, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path)
    model = open_features(tmp_path)
    assert isinstance(model, ClapFeatures)
    assert (model.rate, model.width, model.classes) == (48_000, 24, ())
    sounds = 0.3 * torch.randn(2, 60_000)
    features = model.query.features(repeat_to_length(sounds, 480_000))
    expected = peer.get_audio_features(input_features=features)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(model.embed(sounds, 48_000), torch.nn.functional.normalize(expected, dim=-1))
    name = model.name
    (tmp_path / "README.md").write_text("other files do not count")
    assert open_features(tmp_path).name == name


def test_laions_names_are_known(peer: ClapModel, tmp_path: Path) -> None:
    """Their conversion is tested with the checkpoints; here, that such a file is taken for CLAP."""
    torch.save({"audio_branch.patch_embed.proj.weight": torch.zeros(16, 1, 4, 4)}, tmp_path / "clap.pt")
    with pytest.raises(WeightsError, match=r"CLAP's audio tower \(HTS-AT\) is expected"):
        open_features(tmp_path / "clap.pt")


def test_sizes_out_of_a_file_cost_nothing(peer: ClapModel, tmp_path: Path) -> None:
    """A wide first stage alone would make a tower of 40,000 channels."""
    state = peer.state_dict() | {"audio_model.audio_encoder.patch_embed.proj.weight": torch.zeros(4096, 1, 4, 4)}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="has shape"):
        open_features(tmp_path / "x.pt")


def test_folders_of_several_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="has 2 files of weights"):
        open_features(tmp_path)
    (tmp_path / "b.pth").unlink()
    with pytest.raises(ValueError, match=r"a\.pt"):
        open_features(tmp_path)
    (tmp_path / "a.pt").unlink()
    with pytest.raises(WeightsError, match="has neither"):
        open_features(tmp_path)
