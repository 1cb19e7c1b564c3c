"""Files that want to run code, given to every command wherever it takes a file: none runs, one sentence comes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sounding.cli import app as sounding_app
from training.__main__ import app as training_app
from training.recipe import RECIPES
from training.states import States

from .bait import FORMS, SUFFIXES

WRITTEN = {"out", "to", "attention_map"}  # what commands write
NAMED = {"model": "{}", "overrides": "start.all={}", "file": "{}"}  # files among other things that texts can name


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below a group, with the words that call them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = {
    " ".join(words): (app, words, command)
    for app in (sounding_app, training_app)
    for words, command in commands(typer.main.get_command(app))
}


def takes_a_file(param: Any) -> bool:
    return param.name not in WRITTEN and (param.name in NAMED or param.type.name in ("path", "file", "directory"))


def arguments(command: Any, given: dict[str, str]) -> list[str]:
    """A command line with these values, and something for all else that the command must have."""
    line: list[str] = []
    for param in command.params:
        if param.name not in given and not param.required:
            continue
        value = given.get(param.name, "x")
        line += [value] if param.param_type_name == "argument" else [param.opts[0], value]
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_of_a_command_runs(
    name: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place for a file in turn, with good files in the other places where there are some."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("picture.png")
    good = {"image": "picture.png", "model": str(tiny_checkpoint), "recipe": str(RECIPES / "paper.yaml")}
    good |= {written: f"{written}.wav" for written in WRITTEN} | {
        "out": "out.safetensors" if name == "convert" else "out.wav"
    }
    app, words, command = COMMANDS[name]
    known = {param.name for param in command.params}
    for form, make in FORMS.items():
        marker, bait = tmp_path / "marker", tmp_path / f"{form}.pt"
        make(bait, marker)
        for place in [param for param in command.params if takes_a_file(param)]:
            given = {one.name: str(bait) for one in command.params if one.required and takes_a_file(one)}
            given |= {key: value for key, value in good.items() if key in known}
            given[place.name] = NAMED.get(place.name, "{}").format(bait)
            result = CliRunner().invoke(app, [*words, *arguments(command, given)])
            assert not marker.exists(), (name, place.name, form)
            assert result.exit_code != 0, (name, place.name, form, result.output)
            assert isinstance(result.exception, SystemExit), (name, place.name, form, result.exception)
            assert "weights_only" not in result.output  # torch's own advice is to switch safety off


def test_every_place_for_a_file_is_known() -> None:
    """The bait is offered where commands take files, not past them."""
    places = {
        f"{name}: {param.name}"
        for name, (_, _, command) in COMMANDS.items()
        for param in command.params
        if takes_a_file(param)
    }
    assert {
        "convert: clap",
        "generate: mask",
        "generate: model",
        "info: file",
        "run: overrides",
        "run: recipe",
    } <= places
    assert {"prepare features: model", "prepare videos: csv", "starter: data"} <= places


@pytest.mark.parametrize("form", FORMS)
def test_a_training_does_not_go_on_from_a_file_that_runs(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / "step-00000001.state", tmp_path / "marker")
    with pytest.raises(ValueError, match="is readable; remove the folder to begin anew"):
        States(tmp_path).latest()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_model_of_a_command_runs(suffix: str, tmp_path: Path) -> None:
    marker, picture = tmp_path / "marker", tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    out = str(tmp_path / "out.safetensors")
    for form, make in FORMS.items():
        bait = tmp_path / f"{form}{suffix}"
        make(bait, marker)
        folder = tmp_path / f"folder-{form}{suffix}"
        for part in ("unet", "vae", "text_encoder", "vocoder", "tokenizer", "scheduler"):
            (folder / part).mkdir(parents=True)
            (folder / part / "config.json").write_text("{}")
            for name in ("model", "pytorch_model", "diffusion_pytorch_model", "open_clip_model"):
                shutil.copy(bait, folder / part / f"{name}.bin")
                shutil.copy(bait, folder / f"{name}.bin")
        (folder / "config.json").write_text("{}")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
        for source in (str(bait), str(folder)):
            commands = [
                ["convert", "--out", out, "--audioldm", source, "--clip", source],
                ["info", source],
                ["generate", "--image", str(picture), "--out", str(tmp_path / "a.wav"), "--model", source],
                ["demo", "--out", str(tmp_path / "demo"), "--model", source],
            ]
            for command in commands:
                result = CliRunner().invoke(sounding_app, command)
                assert result.exit_code == 1, (command, result.output, result.exception)
                assert result.output.startswith("sounding: ")
                assert result.output.count("\n") == 1
                assert not marker.exists(), command
    assert not (tmp_path / "out.safetensors").exists()
