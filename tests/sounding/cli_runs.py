"""`sounding generate` on a tiny checkpoint, with an image and two masks."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sounding.cli.app import app


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A picture, two masks and a checkpoint, as files."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[8:40, 4:28], picture[8:40, 36:60] = (200, 60, 20), (20, 60, 200)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    for name, columns in {"left": slice(4, 28), "right": slice(36, 60)}.items():
        mask = np.zeros((48, 64), np.uint8)
        mask[8:40, columns] = 255
        Image.fromarray(mask).resize((128, 96)).save(tmp_path / f"{name}.png")
    shutil.copy(tiny_checkpoint, tmp_path / "tiny.safetensors")
    return tmp_path


def sounding(folder: Path, *arguments: str) -> Result:
    common = ("--model", str(folder / "tiny.safetensors"), "--device", "cpu", "--steps", "2")
    if not {"--audio", "--seconds"} & set(arguments):
        common += ("--seconds", "0.5")
    picture = ("--image", str(folder / "picture.png"))
    return CliRunner().invoke(app, ["generate", *picture, *common, *arguments])


LONG = "x" * 252 + ".wav"
MASK = ("--mask", "left.png")
BOTH = (*MASK, "--mask", "right.png")


def refused(folder: Path, *arguments: str) -> str:
    """The one sentence of a command that must not leave anything; with --json the same as a line for programs."""
    before = sorted(folder.rglob("*"))
    with contextlib.chdir(folder):
        result = sounding(folder, "--out", "x.wav", *arguments)
        line = sounding(folder, "--out", "x.wav", *arguments, "--json")
    assert result.exit_code == line.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("sounding: ")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.output
    assert result.stdout == ""
    assert line.stdout.count("\n") == 1
    assert set(json.loads(line.stdout)) == {"error"}
    assert sorted(folder.rglob("*")) == before
    return result.stderr


def left(folder: Path) -> tuple[str, str]:
    return "--mask", str(folder / "left.png")
