"""Files that want to run code, given to every command wherever it takes a file: none runs, one sentence comes."""

from __future__ import annotations

import inspect
import json
import shutil
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sounding.cli.app import app as sounding_app
from training.__main__ import app as training_app
from training.engine.states import States
from training.recipe import RECIPES

from ..malicious_files import FORMS, SUFFIXES

WRITTEN = {"out", "to", "attention_map"}  # what commands write
WITH_JOBS = {"out_dir", "results"}  # likewise, only beside `--jobs`
NEEDED = {"audioldm", "clip"}  # by convert, unless the recommended weights are asked for
VIDEOS = {"video", "mask_video"}  # read together, instead of an image
NAMED = {"model": "{}", "overrides": "start.all={}", "file": "{}"}  # files among other things that texts can name


@dataclass(frozen=True)
class Place:
    """A parameter of a command."""

    name: str
    flag: str  # "" for an argument
    required: bool
    file: bool

    @classmethod
    def of(cls, parameter: inspect.Parameter, hint: Any) -> Place:
        """What a command's function says of it: Annotated[Path, typer.Option(...)] and the like."""
        kind, *notes = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        path = kind is Path or any(
            inner is Path for one in typing.get_args(kind) for inner in (one, *typing.get_args(one))
        )
        file = parameter.name not in WRITTEN | WITH_JOBS and (path or parameter.name in NAMED)
        argument = any(isinstance(note, typer.models.ArgumentInfo) for note in notes)
        # In Annotated, typer takes the first flag of an option for its default.
        options = [(getattr(note, "default", None), *(getattr(note, "param_decls", None) or ())) for note in notes]
        flags = [word for words in options for word in words if isinstance(word, str) and word.startswith("--")]
        flag = "" if argument else next(iter(flags), "--" + parameter.name.replace("_", "-"))
        return cls(parameter.name, flag, parameter.default is parameter.empty, file)


def commands(app: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Place]]]:
    """All commands of a program, with the words that call them and their parameters."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*words, str(group.name)))
    for command in app.registered_commands:
        function: Any = command.callback
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        name = command.name or function.__name__.replace("_", "-")
        places = [parameter for parameter in parameters if hints[parameter.name] is not typer.Context]
        yield (*words, name), [Place.of(parameter, hints[parameter.name]) for parameter in places]


COMMANDS = {
    " ".join(words): (app, words, places) for app in (sounding_app, training_app) for words, places in commands(app)
}


def arguments(places: list[Place], given: dict[str, str]) -> list[str]:
    """A command line with these values, and something for all else that the command must have."""
    line: list[str] = []
    for place in places:
        if place.name in given or place.required:
            line += [place.flag] * bool(place.flag) + [given.get(place.name, "1")]  # a text, or a number
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
    app, words, places = COMMANDS[name]
    known = {place.name for place in places}
    for form, make in FORMS.items():
        marker, bait = tmp_path / "marker", tmp_path / f"{form}.pt"
        make(bait, marker)
        for place in [place for place in places if place.file]:
            given = {one.name: str(bait) for one in places if (one.required or one.name in NEEDED) and one.file}
            given |= {key: value for key, value in good.items() if key in known}
            given[place.name] = NAMED.get(place.name, "{}").format(bait)
            result = CliRunner().invoke(app, [*words, *arguments(places, given)])
            assert not marker.exists(), (name, place.name, form)
            assert result.exit_code == 1, (name, place.name, form, result.output)
            assert isinstance(result.exception, SystemExit), (name, place.name, form, result.exception)
            assert "weights_only" not in result.output  # torch's own advice is to switch safety off


def test_every_place_for_a_file_is_known() -> None:
    """The bait is offered where commands take files, not past them."""
    found = {f"{name}: {place.name}" for name, (_, _, places) in COMMANDS.items() for place in places if place.file}
    assert {
        "convert: clap",
        "generate: mask",
        "generate: model",
        "info: file",
        "run: overrides",
        "run: recipe",
    } <= found
    assert {"prepare features: model", "prepare videos: csv", "starter train: data"} <= found


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
