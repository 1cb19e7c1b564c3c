"""Checkpoint files: exact round trips, headers, and writing in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import sounding
from sounding.checkpoint import CONFIG_KEY, CheckpointError, boxed_path, describe, read_header, resolve
from sounding.config import PARTS, SoundingConfig
from sounding.model import SoundingModel


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_round_trip_is_bit_exact(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    loaded = SoundingModel.from_pretrained(tiny_checkpoint)
    assert loaded.config == tiny_model.config
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    before, after = tiny_model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_a_loaded_model_makes_the_same_sound(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    loaded = sounding.load(tiny_checkpoint, device="cpu")
    inputs = {"image": torch.rand(1, 40, 40, 3), "mask": torch.ones(1, 40, 40), "seconds": 0.3, "steps": 2}
    sound = loaded.generate(**inputs).waveform
    assert torch.equal(sound, sounding.load(tiny_checkpoint, device="cpu").generate(**inputs).waveform)
    # Weights are used where they lie in the file, and how far from 64 bytes that is decides how products are summed.
    other = tiny_model.generate(**inputs).waveform
    assert float((sound - other).abs().max()) < 1e-3 * float(other.abs().max())


def test_half_precision_halves_the_file(tiny_model: SoundingModel, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    tiny_model.save_pretrained(path)
    weights = sum(value.numel() * value.element_size() for value in load_file(path).values())
    full = sum(value.numel() * value.element_size() for value in load_file(tiny_checkpoint).values())
    assert weights == pytest.approx(full / 2, rel=0.01)
    loaded = SoundingModel.from_pretrained(path)
    for name, value in tiny_model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert SoundingModel.from_pretrained(path, dtype=torch.float16).grounding.null.dtype == torch.float16


def test_header_has_what_tools_show(tiny_model: SoundingModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tiny_model.save_pretrained(path, title="A title", description="What it is", licence="CC0")
    metadata = metadata_of(path)
    assert SoundingConfig.from_json(metadata[CONFIG_KEY]) == tiny_model.config
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "sounding-objects"
    assert metadata["modelspec.title"] == "A title"
    assert metadata["modelspec.description"] == "What it is"
    assert metadata["modelspec.license"] == "CC0"
    assert {name.split(".")[0] for name in load_file(path)} == set(PARTS)


def test_hash_follows_the_weights(tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for value in (0.5, 0.5, 0.25):
        monkeypatch.setattr(tiny_model.grounding.weight_std, "data", torch.tensor(value))
        tiny_model.save_pretrained(tmp_path / "model.safetensors", title=str(len(hashes)))
        hashes.append(metadata_of(tmp_path / "model.safetensors")["modelspec.hash_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_describe_counts_each_part(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    described = describe(tiny_checkpoint)
    json.dumps(described)  # what `--json` prints
    for part in PARTS:
        expected = sum(value.numel() for value in getattr(tiny_model, part).state_dict().values())
        assert described["parameters"][part] == expected  # type: ignore[index]
    assert described["bytes"] == os.path.getsize(tiny_checkpoint)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="is not a file; give 'starter' or the path"):
            sounding.load(path)
        with pytest.raises(CheckpointError):
            read_header(path)


def test_starter_is_looked_for_in_the_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sounding.checkpoint as checkpoint

    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "sounding" / "checkpoint.py"))
    with pytest.raises(CheckpointError, match="starter checkpoint is missing"):
        resolve("starter")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "starter.safetensors").touch()
    assert resolve("starter") == boxed_path() == tmp_path / "models" / "starter.safetensors"


def test_a_crash_leaves_the_old_file(
    tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    tiny_model.save_pretrained(path)
    before = path.read_bytes()

    def half(tensors: dict, filename: Path, metadata: dict) -> None:
        Path(filename).write_bytes(before[:1000])
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError, match="No space"):
        tiny_model.save_pretrained(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_half_cannot_hold_are_not_written(
    tiny_model: SoundingModel, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model.grounding.null, "data", torch.full((1, 16), value))
    with pytest.raises(CheckpointError, match=r"'grounding.null' is not finite as torch.float16"):
        tiny_model.save_pretrained(tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tiny_model: SoundingModel, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    tiny_model.save_pretrained(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
