"""`python -m training`: one command, whose options are checked before long work."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import training
from sounding.checkpoint import read_header
from training.__main__ import app
from training.recipe import RECIPES
from training.starter.evaluate import cli as evaluate
from training.starter.evaluate.finetuned import FinetunedSettings
from training.starter.evaluate.photographs import WAYS
from training.starter.evaluate.recognise import PARTS
from training.starter.evaluate.sounds import Settings
from training.starter.run import Amounts

ROOT = Path(training.__file__).parent
MOVED = {
    "calibrate": "starter calibrate",
    "put-segmenter": "starter put-segmenter",
    "take-segmenter": "starter take-segmenter",
    "begin": "initialize",
}


def listed(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Names of a command and of all commands below it."""
    yield names
    for name, below in getattr(command, "commands", {}).items():
        yield from listed(below, *names, name)


COMMANDS = list(listed(typer.main.get_command(app)))


def test_there_is_no_second_way_in() -> None:
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__main__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert "argparse" not in imported, path
        assert not [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node)], path


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_help(names: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0
    assert f"Usage: root {' '.join(names)}".strip() in result.stdout.replace("\n", " ")


def test_a_group_alone_shows_its_help() -> None:
    for names in (["starter"], ["starter", "evaluate"], ["prepare"], []):
        result = CliRunner().invoke(app, names)
        assert "Usage:" in result.stdout + result.stderr
        assert "--help" in result.stdout + result.stderr


def test_commands_that_moved_are_still_understood_but_not_shown() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for old, new in MOVED.items():
        assert tuple(new.split()) in COMMANDS
        assert (old,) in COMMANDS
        assert f" {old} " not in shown


@pytest.mark.parametrize("before", [[], ["starter"]], ids=["at the top", "of the starter"])
def test_a_segmenter_is_asked_of_a_checkpoint_that_has_none(
    before: list[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*before, "take-segmenter", str(tiny_checkpoint), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "has no segmenter" in result.stderr
    assert read_header(tiny_checkpoint).config.segmenter is None


def test_choices_are_those_of_the_measurements() -> None:
    assert tuple(part.value for part in evaluate.Part) == PARTS
    assert tuple(way.value for way in evaluate.Way) == WAYS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recognise", "--sampler", "euler"], "--sampler is 'euler', but one of ddim"),
        (["sheet", "--sampler", "euler"], "--sampler is 'euler', but one of ddim"),
        (["photographs", "--encoders-only", "--by", "text"], "--encoders-only makes no sound, but --by text"),
        (["recognise"], "training starter stamps"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else None,
)
def test_wrong_options_are_told_before_any_work(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["starter", "evaluate", *arguments])
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_options_of_recognise_become_its_settings(
    stamps_folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def measure(model: Any, data: Any, judge: Any, settings: Settings, parts: tuple[str, ...]) -> dict[str, Any]:
        given.update(name=model.config.name, objects=len(data), settings=settings, parts=parts)
        return {"masked": 1}

    monkeypatch.setattr("training.starter.evaluate.judge.open_judge", lambda data, folder: None)
    monkeypatch.setattr("training.starter.evaluate.recognise.evaluate", measure)
    command = ["starter", "evaluate", "recognise", "--model", str(tiny_checkpoint), "--data", str(stamps_folder)]
    command += ["--parts", "lengths", "--parts", "text", "--lengths", "2.5", "--lengths", "5", "--per-object", "2"]
    command += ["--steps", "15", "--cfg", "7", "--scheduler", "ddim", "--no-clamp", "--pairs", "4", "--window", "8"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "new" / "figures.json")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "new" / "figures.json").read_text()) == {"masked": 1}
    assert (given["objects"], given["parts"]) == (3, ("lengths", "text"))
    assert given["settings"] == Settings(
        steps=15, cfg=7.0, sampler="ddim", clamp=False, window=8.0, per_object=2, pairs=4, lengths=(2.5, 5.0)
    )
    assert given["name"] == read_header(tiny_checkpoint).config.name


def test_options_of_finetuned_become_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def compare(*arguments: Any, **named: Any) -> dict[str, Any]:
        given.extend([*arguments, named])
        return {"objects": 3}

    monkeypatch.setattr("training.starter.evaluate.finetuned.compare", compare)
    command = ["starter", "evaluate", "finetuned", "starter", "my.safetensors", "--data", "mine", "--test", "others"]
    command += ["--per-new", "6", "--per-old", "3", "--pairs", "7", "--seconds", "1.5", "--steps", "9", "--batch", "4"]
    command += ["--cfg", "3", "--sampler", "ddim", "--stamps", "stamps", "--folder", "judge"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"objects": 3}
    settings = FinetunedSettings(per_new=6, per_old=3, pairs=7, seconds=1.5, steps=9, cfg=3.0, sampler="ddim", batch=4)
    places = [Path("mine"), Path("stamps"), Path("judge")]
    assert given == [["starter", "my.safetensors"], *places, settings, {"test": Path("others"), "out": None}]


def test_options_of_segment_become_its_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def measure(segmenter: str, data: Path, **named: Any) -> dict[str, Any]:
        given.update(named, segmenter=segmenter, data=data)
        return {"starter: photographs": {"objects": 2}}

    monkeypatch.setattr("training.starter.evaluate.segment.evaluate", measure)
    command = ["starter", "evaluate", "segment", "--segmenter", "sam", "--data", "stamps", "--photographs", "photos"]
    command += ["--clicks", "random", "--objects", "9", "--grabcut", "--out", str(tmp_path / "figures.json")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "figures.json").read_text()) == {"starter: photographs": {"objects": 2}}
    expected = {"segmenter": "sam", "data": Path("stamps"), "photographs": Path("photos"), "cutouts": None}
    assert given == expected | {"objects": 9, "random": True, "grabcut": True}


def test_the_sheet_says_how_it_was_made(
    stamps_folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def write(model: Any, data: Any, judge: Any, settings: Settings, out: Path, *, command: str) -> list[Path]:
        given.update(settings=settings, command=command)
        out.write_text("# Objects\n")
        return [out]

    monkeypatch.setattr("training.starter.evaluate.judge.open_judge", lambda data, folder: None)
    monkeypatch.setattr("training.starter.evaluate.sheet.write_sheet", write)
    options = ["--model", str(tiny_checkpoint), "--per-object", "2", "--steps", "15", "--cfg", "7"]
    page = tmp_path / "page.md"
    command = ["starter", "evaluate", "sheet", *options, "--data", str(stamps_folder), "--out", str(page)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert given["settings"] == Settings(steps=15, cfg=7.0, per_object=2)
    assert given["command"] == f"python -m training starter evaluate sheet {' '.join(options)} --out page.md"


def test_training_the_starter_is_told_where_its_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def train(data: Path, out: Path, folder: Path, **others: Any) -> Path:
        given.update(data=data, out=out, folder=folder, **others)
        return out / "last.safetensors"

    monkeypatch.setattr("training.starter.run.train_starter", train)
    options = ["--at-once", "3", "--scenes", "7", "--trajectories", "2"]
    result = CliRunner().invoke(app, ["starter", "train", "--data", "/a", "--out", "/c", *options])
    assert (result.exit_code, result.stdout) == (0, f"{Path('/c/last.safetensors')}\n")
    amounts = Amounts(scenes=7, trajectories=2)
    places = {"data": Path("/a"), "out": Path("/c"), "folder": RECIPES / "starter"}
    assert given == {**places, "at_once": 3, "amounts": amounts}
    result = CliRunner().invoke(app, ["starter", "train", "--stage", "vocals"])
    assert result.exit_code == 1
    assert "stage is 'vocals', but one of vae, " in result.stderr
