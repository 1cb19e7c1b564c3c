"""Bad options of the commands: one sentence each, before a model is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sounding.cli.app import app

from .cli_runs import BOTH, LONG, MASK, folder, refused
from .cli_runs import sounding as run

__all__ = ["folder"]

BLENDLESS = (("--gain", "1", "--gain", "2"), ("--loudness", "-23"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mask", "nothing.png"), "nothing.png"),
        ((*MASK, "--by", "both"), "--by is 'both', but one of grounding, names is expected"),
        ((*MASK, "--negative-text", " "), "a sentence is expected"),
        ((*MASK, "--negative-mask", "missing.png"), "missing.png"),
        ((*MASK, "--negative-mask", "right.png", "--attention-map", "right.png"), "is what --negative-mask reads"),
        (("--mask", "black.png"), "mask is empty"),
        ((*MASK, "--model", "no.safetensors"), "no.safetensors is not a file"),
        (("--text", " "), "a sentence is expected"),
    ],
)
def test_bad_input_gets_one_sentence(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    Image.new("L", (64, 48)).save(folder / "black.png")
    assert says in refused(folder, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "x.xyz"), ".wav, .flac, .ogg or .mp3 is expected"),
        *(
            (("--out", f"x.{ending}"), "is expected")
            for ending in ("raw", "sd2", "wve", "mpc2k", "txt", "png", "WAVE", "")
        ),
        *((("--seconds", value), "positive length") for value in ("0", "-1", "nan", "inf", "-inf", "1e12", "600.1")),
        *((("--window", value), "positive length") for value in ("0", "-3", "nan", "inf", "1e12")),
        *((("--steps", value), "--steps is") for value in ("0", "-3", "1000", "99999999999999999999")),
        *((("--cfg", value), "--cfg is") for value in ("nan", "inf", "-1", "1e30")),
        *((("--batch", value), "--batch is") for value in ("0", "-3", "65", "99999999999999999999")),
        *((("--seed", value), "2^64 - 1") for value in ("-1", str(2**64), "9" * 40)),
        *((("--fade-out", value), "fade_out is") for value in ("-1", "nan", "inf")),
        *((("--sampler", value), "--sampler is") for value in ("euler", "", "DDIM", "\x1b[2J")),
        *((("--scheduler", value), "one of ddim") for value in ("euler", "", "DDIM", "\x1b[2J")),
        (("--sampler", "ddim", "--scheduler", "ddim"), "they are one setting"),
        *(
            (("--device", value), "is expected")
            for value in ("foo", "", "cpu:x", "cuda:", "cuda:-1", "cuda:1:2", "meta", "\x1b[2J")
        ),
        (("--device", "cuda:999"), "CUDA"),
        ((*BOTH, "--batch", "2"), "--batch"),
        ((*MASK, "--gain", "1"), "of two or more"),
        (("--gain", "1"), "of two or more"),
        ((*MASK, "--gain", "1", "--gain", "2"), "one per mask is expected"),
        ((*BOTH, "--gain", "1"), "one per mask is expected"),
        *(((*BOTH, "--gain", "1", "--gain", value), "--gain is") for value in ("nan", "inf", "1e9")),
        (("--place",), "--place came without --mask"),
        ((*MASK, "--depth", "picture.png"), "--depth came without --place"),
        ((*MASK, "--place", "--depth", "missing.png"), "missing.png"),
        ((*MASK, "--place", "--loudness", "-23"), "there is no mix"),
        *(((*BOTH, "--loudness", value), "-60 to -5 LUFS are expected") for value in ("0", "-61", "nan")),
        (("--variation", "-1"), "2^64 - 1"),
        (("--variation", "1", "--variation-strength", "1.5"), "variation_strength is 1.5"),
        (("--variation-strength", "0.5"), "--variation-strength 0.5 came without --variation"),
        ((*MASK, "--audio", "s.wav", "--region", "0:1", "--seconds", "3"), "--seconds 3 came with --audio"),
        ((*MASK, "--blend"), "--blend is about several masks"),
        *(((*BOTH, "--blend", *more), f"{more[0]} came with --blend") for more in BLENDLESS),
        (("--bits", "8"), "one of 16, 24, float is expected"),
        (("--rate", "1000"), "--rate is 1000"),
        (("--stems", "new"), "--stems came without --mask"),
        ((*MASK, "--stems", "."), "is there already, but a new folder is expected"),
        ((*MASK, "--stems", "left.png"), "is there already, but a new folder is expected"),
        ((*MASK, "--stems-placed"), "--stems-placed came without --stems"),
        (("--out", LONG), "at most 255"),
        (("--out", "x" * 250 + ".wav", "--batch", "2"), "at most 255"),
        (("--out", "file/x.wav"), "a folder is expected"),
        (("--out", "file/deeper/x.wav"), "a folder is expected"),
        (("--out", "gone/x.wav"), "a link to nothing"),
        (("--out", "folder.wav"), "is a folder"),
        (("--out", "pipe.wav"), "no regular file"),
        (("--out", "/proc/x.wav"), "cannot be written to"),
        (("--attention-map", "x.xyz"), "is expected"),
        (("--attention-map", "file/x.png"), "a folder is expected"),
        (("--attention-map", "folder.png"), "is a folder"),
        (("--attention-map", "x" * 252 + ".png"), "at most 255"),
        (("--attention-map", "/proc/x.png"), "cannot be written to"),
        (("--attention-map", "picture.png"), "--image reads"),
        ((*MASK, "--attention-map", "./left.png"), "--mask reads"),
    ],
)
def test_bad_options_are_told_before_a_model_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was asked for")

    (folder / "file").write_text("no folder")
    (folder / "gone").symlink_to("nowhere")
    for name in ("folder.wav", "folder.png"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe.wav")
    monkeypatch.setattr("sounding.model.SoundingModel.from_pretrained", load)
    assert says in refused(folder, *arguments)


def test_cuda_without_cuda_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "sees no CUDA" in refused(folder, "--device", "cuda")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert "sees no Apple GPU" in refused(folder, "--device", "mps")
    result = CliRunner().invoke(app, ["demo", "--out", str(folder / "demo"), "--device", "cuda"])
    assert result.exit_code == 1
    assert "sees no CUDA" in result.stderr
    assert not (folder / "demo").exists()


def test_a_blend_is_one_file_and_one_stem(folder: Path) -> None:
    masks = [part for name in ("left", "right") for part in ("--mask", str(folder / f"{name}.png"))]
    result = run(folder, *masks, "--blend", "--out", str(folder / "x.wav"), "--stems", str(folder / "new"))
    assert result.exit_code == 0, result.output
    assert [path.name for path in folder.glob("x*.wav")] == ["x.wav"]
    assert sorted(path.name for path in (folder / "new").glob("*.wav")) == ["01_blend.wav", "mix.wav"]
