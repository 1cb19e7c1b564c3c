"""`sounding convert` as a person types it: what it says, what travels in the file, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ClapModel
from typer.testing import CliRunner

import sounding
from sounding.cli.app import app
from sounding.convert.assemble import convert

from .published_weights import FILM, audioldm_pipeline, clap_peer, tiny_clip

__all__ = ["clap_peer", "tiny_clip"]


@pytest.fixture(scope="module")
def audioldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("audioldm") / "audioldm-tiny"
    audioldm_pipeline((32, 64)).save_pretrained(folder)
    return folder


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_command_says_what_it_did(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip)
    assert done.exit_code == 0, done.output
    for words in (
        f"patches    from {tiny_clip}",
        "grounding  starts anew",
        "unet cross-attention starts anew",
        "train it",
    ):
        assert words in done.output
    done = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, "--condition", "film", "--json")
    report = json.loads(done.stdout)
    assert report["path"] == str(out)
    assert set(report["anew"]) == {"grounding"}
    assert CliRunner().invoke(app, ["info", str(out)]).exit_code == 0


def test_the_tokenizer_travels(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(audioldm_folder, folder)
    convert(tmp_path / "with.safetensors", audioldm=folder, clip=tiny_clip)
    shutil.rmtree(folder / "tokenizer")
    report = convert(tmp_path / "without.safetensors", audioldm=folder, clip=tiny_clip)
    assert any("No tokenizer travels" in note for note in report.notes)
    shutil.rmtree(folder)
    model = sounding.load(tmp_path / "with.safetensors", device="cpu")
    assert model.query.encode(["a dog"]).shape == (1, FILM)  # type: ignore[union-attr, call-arg, arg-type]
    with pytest.raises(FileNotFoundError, match=r"clap-htsat-unfused.*cache.*--tokenizer"):
        sounding.load(tmp_path / "without.safetensors", device="cpu").query.encode(["a dog"])  # type: ignore[union-attr, call-arg, arg-type]


def test_audio_queries(audioldm_folder: Path, tiny_clip: Path, clap_peer: ClapModel, tmp_path: Path) -> None:
    """Queries of another width than the patches', too: CLAP here has 24, CLIP 16."""
    clap_peer.save_pretrained(tmp_path / "clap")
    out = tmp_path / "out.safetensors"
    common = ("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, "--query", "audio")
    refused = command(*common)
    assert refused.exit_code == 1
    assert "has no CLAP audio tower" in refused.output
    done = command(*common, "--clap", tmp_path / "clap")
    assert done.exit_code == 0, done.output
    model = sounding.load(out, device="cpu")
    assert (model.config.patches.width, model.config.query.width) == (16, 24)
    patches = model.see(torch.rand(1, 48, 48, 3))
    condition = model.ground(patches, sound=0.1 * torch.randn(2, 16_000))
    assert condition.tokens.shape == (2, 1, FILM)
    torch.testing.assert_close(condition.weights.sum(dim=-1), torch.ones(2))
    with pytest.raises(ValueError, match="audio queries, so text cannot"):
        model.ground(patches, text="a dog")


def test_sounds_do_not_ground_a_text_checkpoint(tiny_model: sounding.SoundingModel) -> None:
    with pytest.raises(ValueError, match="trained with text queries, so sound cannot ground it"):
        tiny_model.ground(torch.randn(1, 25, 16), sound=torch.zeros(1, 100))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--condition", "film", "--query", "audio"), "FiLM slot was trained with AudioLDM's own CLAP"),
        (("--vocoder", "nothing.pt"), "nothing.pt is not a file"),
        (("--tokenizer", "."), "neither tokenizer.json nor"),
    ],
)
def test_command_refuses_in_one_sentence(
    arguments: tuple[str, ...], words: str, audioldm_folder: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    refused = command("--out", out, "--audioldm", audioldm_folder, "--clip", tiny_clip, *arguments)
    assert refused.exit_code == 1
    assert words in refused.output
    assert refused.output.count("\n") == 1
    assert not out.exists()


def test_result_must_be_a_safetensors(audioldm_folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    refused = command("--out", tmp_path / "out.ckpt", "--audioldm", audioldm_folder, "--clip", tiny_clip)
    assert "ends in '.ckpt', but .safetensors is expected" in refused.output
