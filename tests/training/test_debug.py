"""What docs/training.md shows first, letter by letter: the paper's whole path on made-up data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from typer.testing import CliRunner

import sounding
from sounding.checkpoint import read_header
from sounding.cli.app import app as sounding_app
from training.__main__ import app as training_app
from training.data.debug import make_debug_data
from training.data.shards import Shards
from training.recipe import RECIPES, read_recipe

from ..conftest import ROOT
from .helpers import read_log

APPS = {"training": training_app, "sounding": sounding_app}


def commands(page: Path, heading: str) -> list[list[str]]:
    """The commands of the first block below a heading."""
    section = page.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return [shlex.split(line) for line in found[1].replace("\\\n", " ").splitlines() if line.strip()]


def test_the_papers_whole_path_as_the_docs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    listed = commands(ROOT / "docs" / "training.md", "The whole path, in two minutes")
    assert len(listed) == 7
    for python, module, name, *arguments in listed:
        assert (python, module) == ("python", "-m")
        if arguments[0] == "prepare" and arguments[1] != "features":
            arguments += ["--workers", "0"]  # processes of their own take seconds to begin
        result = CliRunner().invoke(APPS[name], arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
    sound, rate = soundfile.read("disc.wav")
    assert rate == 16_000
    assert len(sound) == round(1.28 * 16_000)
    assert np.isfinite(sound).all()
    assert len(Shards("data/debug/features", ("id", "patches"))) == 18  # videos and pairs alike
    logged = read_log(Path("runs/debug"))
    validated = [line for line in logged if "val_loss" in line]
    assert [line["step"] for line in validated] == [20, 40]
    assert all(0 < line["val_loss"] < 10 for line in validated)
    best = min(validated, key=lambda line: line["val_loss"])["step"]
    header = read_header(Path("runs/debug/debug-best.safetensors"))
    assert header.metadata["training.validation"].endswith(f"after {best} steps")
    assert sounding.load("runs/debug/debug-best.safetensors", device="cpu").config.train_seconds == 1.28
    logged = [line for line in logged if "loss" in line]
    assert logged[-1]["step"] == 40
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert 0 < logged[-1]["on_target"] < 1  # of the pairs, which have masks
    assert len(list(Path("runs/debug/previews").rglob("*.wav"))) == 1
    model = sounding.load("runs/debug/debug.safetensors", device="cpu")
    assert model.config.train_seconds == 1.28
    assert "training.recipe" in read_header(Path("runs/debug/debug.safetensors")).metadata

    # The rest of the page's commands on the same data: one that begins as the recipe says, and Python.
    result = CliRunner().invoke(
        training_app, ["initialize", "training/recipes/debug.yaml", "--out", "start.safetensors"]
    )
    assert result.exit_code == 0, result.output
    assert sounding.load("start.safetensors", device="cpu").config.grounding.condition_width == 16
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(snippet, {})
    assert Path("runs/again/again.safetensors").is_file()


def test_the_debug_recipe_is_the_papers_but_for_sizes() -> None:
    debug, paper = read_recipe(RECIPES / "debug.yaml"), read_recipe(RECIPES / "paper.yaml")
    assert (debug.task, debug.settings, debug.start["grounding"]) == (paper.task, paper.settings, "random")
    assert (debug.loop.betas, debug.loop.eps, debug.loop.schedule) == (paper.loop.betas, paper.loop.eps, "constant")
    assert yaml.safe_load((RECIPES / "debug.yaml").read_text())["extends"] == "paper.yaml"


def test_made_up_data_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_debug_data(tmp_path / name, pairs=2, videos=1)
    for file in (tmp_path / "one").rglob("*"):
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        if file.is_file() and file.suffix != ".safetensors":  # whose header has its keys in any order
            assert file.read_bytes() == other.read_bytes(), file
    picture = np.asarray(Image.open(tmp_path / "one" / "pairs" / "disc_0.png")).astype(int)
    mask = np.asarray(Image.open(tmp_path / "one" / "pairs" / "disc_0_mask.png"))
    assert np.abs(picture[mask == 255] - (200, 40, 40)).max() == 0
    assert (np.abs(picture[mask == 0] - (200, 40, 40)).max(axis=1) > 0).all()
