"""Whole runs: what is kept of them, what ends them before the first step, and what a dry run says of it."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import sounding
from sounding.checkpoint import read_header
from sounding.config import SoundingConfig
from training import run as running
from training.__main__ import app
from training.data.settings import DataSettings
from training.engine.estimate import estimate
from training.engine.settings import LoopConfig
from training.engine.states import plain_disk_errors
from training.provenance import CODE, DATA, RECIPE, START, code_version, data_fingerprint, header
from training.recipe import RECIPES, Recipe, read_recipe
from training.run import run
from training.tasks.vae import VaeItems, VaeSettings


def recipe_of(config: SoundingConfig, stamps: Path, out: Path, **loop: Any) -> Recipe:
    settings: dict[str, Any] = {"steps": 4, "batch": 2, "lr": 1e-3, "log_every": 1, "precision": "fp32"}
    return Recipe(
        task="vae",
        name="small",
        loop=LoopConfig(**settings | loop),
        out=str(out),
        model=config,
        data=DataSettings(stamps=str(stamps)),
        settings=VaeSettings(frames=16),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def finished(tiny_config: SoundingConfig, stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path_factory.mktemp("runs"))
    run(recipe)
    return recipe


def test_a_checkpoint_says_what_it_was_trained_by(finished: Recipe, stamps_folder: Path, tmp_path: Path) -> None:
    metadata = read_header(finished.result).metadata
    (tmp_path / "again.yaml").write_text(metadata[RECIPE])
    again: Recipe = read_recipe(tmp_path / "again.yaml")
    assert dataclasses.replace(again, model=finished.model) == finished
    assert metadata[CODE] == code_version()
    assert metadata[CODE].startswith(sounding.__version__)
    assert metadata[DATA] == data_fingerprint([str(stamps_folder)])
    assert metadata[START] == ""
    assert (finished.folder / "recipe.yaml").read_text() == metadata[RECIPE]


def test_a_header_is_bounded() -> None:
    assert sum(map(len, header("x" * 10_000_000, "data", "start").values())) < 2000


def test_the_datas_fingerprint_is_of_its_content(stamps_folder: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "manifest.json").write_text("[]")
        (folder / "a.wav").write_bytes(b"1234")
    assert data_fingerprint([str(one)]) == data_fingerprint([str(other)])
    (other / "a.wav").write_bytes(b"1235")
    assert data_fingerprint([str(one)]) != data_fingerprint([str(other)])


def test_a_finished_run_is_left_alone(finished: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    before = contents(finished.folder)
    with caplog.at_level(logging.INFO):
        assert run(finished) == finished.result
    aside = dataclasses.replace(
        finished,
        loop=dataclasses.replace(finished.loop, keep=9, log_every=3, save_minutes=1.0),
        data=dataclasses.replace(finished.data, workers=1),
    )
    assert run(aside) == finished.result
    assert "nothing is left to do" in caplog.text
    assert contents(finished.folder) == before


def test_a_finished_run_with_other_settings_is_refused_and_its_record_stays(
    finished: Recipe, stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(finished.folder)
    rate = dataclasses.replace(finished, loop=dataclasses.replace(finished.loop, lr=5e-4))
    vae = dataclasses.replace(finished, settings=dataclasses.replace(finished.settings, kl=0.5))
    longer = dataclasses.replace(finished, loop=dataclasses.replace(finished.loop, steps=8))
    for changed, said in ((rate, "loop.lr: 0.001 -> 0.0005"), (vae, "vae.kl: 0.001 -> 0.5"), (longer, "loop.steps")):
        with pytest.raises(ValueError, match=rf"trained with other settings.*{said}"):
            run(changed)
        assert contents(finished.folder) == before
    monkeypatch.setattr(running, "data_fingerprint", lambda folders: "other")
    with pytest.raises(ValueError, match=r"other settings .the data"):
        run(finished)
    assert contents(finished.folder) == before


def test_states_of_a_finished_run_are_not_written_down_as_anothers(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path)
    whole = load_file(run(recipe))
    recipe.result.unlink()
    with pytest.raises(ValueError, match="trained with other settings"):
        run(dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, lr=1.0)))
    again = load_file(run(recipe))
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_run_that_goes_on_with_other_settings_keeps_both_recipes(
    tiny_config: SoundingConfig,
    stamps_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path, save_steps=1)
    draw, calls = VaeItems.item, [0]

    def stopping(self: Any, index: int, rng: Any) -> Any:
        calls[0] += 1
        if calls[0] > 4:
            raise KeyboardInterrupt
        return draw(self, index, rng)

    with monkeypatch.context() as patch:
        patch.setattr(VaeItems, "item", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    first = (recipe.folder / "recipe.yaml").read_text()
    with caplog.at_level(logging.WARNING):
        run(dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, lr=2e-3)))
    assert (recipe.folder / "recipe-until-step-00000002.yaml").read_text() == first
    assert yaml.safe_load((recipe.folder / "recipe.yaml").read_text())["loop"]["lr"] == 2e-3
    assert "recipe-until-step-00000002.yaml" in caplog.text


def test_a_full_disk_at_the_last_checkpoint_is_one_sentence(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(recipe.result))

    with monkeypatch.context() as patch:
        patch.setattr(running.SoundingModel, "save_pretrained", full)
        with pytest.raises(OSError, match=r"small\.safetensors cannot be .*: No space.*step-00000004\.state are kept"):
            run(recipe)
    assert run(recipe).is_file()  # goes on


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_a_disk_refuses_is_a_sentence(tmp_path: Path, number: int) -> None:
    from safetensors import SafetensorError

    raised: list[Exception] = [OSError(number, os.strerror(number), "x.bin"), OSError(number, os.strerror(number))]
    if number == errno.ENOSPC:
        raised.append(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    for error in raised:
        said = r"cannot be read or written: .*the same command goes on"
        with pytest.raises(OSError, match=said) as caught, plain_disk_errors(tmp_path):
            raise error
        assert "Errno" not in str(caught.value)


def dry(recipe: Recipe, tmp_path: Path, *more: str) -> Result:
    file = tmp_path / "asked.yaml"
    file.write_text(recipe.to_yaml())
    return CliRunner().invoke(app, ["run", str(file), "--dry-run", *more])


def test_a_dry_run_says_what_a_run_would_take_and_writes_nothing(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path / "out", batch=8)
    result = dry(recipe, tmp_path)
    assert result.exit_code == 0, result.output
    assert " learn" in next(line for line in result.output.splitlines() if line.startswith("vae "))
    assert "batch: 8" in result.output
    assert "GFLOP" in result.output
    assert "8 items at once" in result.output
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    shared = dry(
        dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, accumulate=2)), tmp_path, "--processes=2"
    )
    assert "2 items at once" in shared.output
    assert "2 processes" in shared.output
    judged = dataclasses.replace(recipe, settings=dataclasses.replace(recipe.settings, critic=0.1, frames=32))
    assert any(line.startswith("critic ") for line in dry(judged, tmp_path).output.splitlines())
    short = dataclasses.replace(judged, settings=dataclasses.replace(judged.settings, frames=16))
    result = dry(short, tmp_path)
    assert result.exit_code == 1
    assert "24 frames and bands or more is expected" in result.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.stamps=nowhere", "nowhere/manifest.json is missing"),
        ("data.stamps=''", "both or neither"),
        ("start.unet=gone.safetensors", "gone.safetensors is not a file"),
        ("start.voice=random", "start has 'voice'"),
        ("loop.accumulate=3", "multiple of 3"),
        ("loop.epochs=2", "one of the two is expected"),
        ("vae.frames=18", "multiple of 4"),
        ("preview={every: 1, items: [{image: gone.png}]}", "gone.png"),
        ("preview={every: 1, items: [{audio: gone.wav}]}", "gone.wav"),
    ],
)
def test_a_dry_run_finds_what_would_end_a_run(
    tiny_config: SoundingConfig, stamps_folder: Path, tmp_path: Path, override: str, message: str
) -> None:
    recipe = recipe_of(tiny_config, stamps_folder, tmp_path / "out")
    result = dry(recipe, tmp_path, override)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    with pytest.raises((ValueError, OSError), match=message.replace(".", r"\.")):
        run(read_recipe(tmp_path / "asked.yaml", overrides=[override]))
    assert not (tmp_path / "out" / "small" / "states").exists()


def test_a_dry_run_of_what_is_fine_tunings_describes_it() -> None:
    path = str(RECIPES / "finetune.yaml")
    result = CliRunner().invoke(app, ["run", path, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "unet" in result.output
    assert "750 steps" in result.output
    result = CliRunner().invoke(app, ["run", path])
    assert result.exit_code == 1
    assert "python -m training finetune --recipe" in result.output


def test_activations_are_those_of_a_micro_batch_of_a_process() -> None:
    class Summed(torch.nn.Linear):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return super().forward(batch["x"]).sum()

    def example(device: torch.device) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(1, 8, device=device)}

    module = Summed(8, 8)
    whole = estimate(module, example, batch=24, steps=1, speed=1.0)
    parts = estimate(module, example, batch=24, steps=1, speed=1.0, processes=2, accumulate=3)
    assert 6 * parts.activations == whole.activations
    assert parts.flops == whole.flops
    assert parts.seconds_per_step == whole.seconds_per_step / 2
    with pytest.raises(ValueError, match="accumulate 0"):
        estimate(module, example, batch=24, steps=1, speed=1.0, accumulate=0)
