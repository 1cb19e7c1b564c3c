"""AudioLDM's folders as they are found: old names, damaged or incomplete files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sounding.convert.assemble import convert
from sounding.convert.audioldm import read_audioldm
from sounding.weights import WeightsError

from .published_weights import SIZES, audioldm_pipeline, tiny_clip

__all__ = ["tiny_clip"]


def test_folders_of_2023_with_old_names_of_attention(tmp_path: Path) -> None:
    pipeline = audioldm_pipeline(SIZES["s"])
    pipeline.save_pretrained(tmp_path / "folder")
    expected = read_audioldm(tmp_path / "folder").vae.tensors
    path = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, value in load_file(path).items():
        for new, before in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            name = name.replace(new, before)
        old[name] = value
    assert old.keys() != expected.keys()
    save_file(old, path)
    got = read_audioldm(tmp_path / "folder").vae.tensors
    assert got.keys() == expected.keys()


def break_index(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDM2Pipeline"}))


def break_unet(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_embed_type": None}))


def lose_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def lose_tensor(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["conv_in.weight"]
    save_file(state, path)


def reshape_tensor(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.bias": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_index, "is a AudioLDM2Pipeline, but an AudioLDMPipeline is expected"),
        (break_unet, "has class_embed_type None"),
        (lose_weights, "has neither diffusion_pytorch_model.safetensors nor"),
        (lose_tensor, "lacks tensor 'conv_in.weight'"),
        (reshape_tensor, r"'conv_in.bias' has shape \(3,\), but \(32,\) is expected"),
        (lambda folder: (folder / "vae" / "config.json").write_text("{}"), r"not laid out as .*KeyError"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_other_folders_get_one_sentence(damage: object, words: str, tiny_clip: Path, tmp_path: Path) -> None:
    audioldm_pipeline(SIZES["s"]).save_pretrained(tmp_path / "folder")
    damage(tmp_path / "folder")  # type: ignore[operator]
    with pytest.raises(WeightsError, match=words) as error:
        convert(tmp_path / "out.safetensors", audioldm=tmp_path / "folder", clip=tiny_clip)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()
