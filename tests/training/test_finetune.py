"""`python -m training finetune` on the tests' own stamps: what is learnt, what stays, stopping and going on."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import sounding
from sounding.checkpoint import read_header
from sounding.model import SoundingModel
from training.__main__ import app
from training.data.features import FeatureSource
from training.data.object_set import ObjectSet
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.engine.loop import train
from training.engine.settings import LoopConfig
from training.finetune import rehearsal as known_data
from training.finetune.distillation import DistillationItems
from training.finetune.grounding import GroundingAdaptationObjective
from training.finetune.objects import read_objects
from training.finetune.plan import FinetuneRecipe, known_objects, unlike
from training.finetune.run import finetune
from training.finetune.scenes import ObjectSceneSource
from training.finetune.text_encoder import TextEncoderItems, TextEncoderObjective
from training.recipe import RECIPES, read_recipe
from training.tasks.grounded import GroundedObjective
from training.tasks.grounded_finetuning import GroundedFinetuningSettings

from .helpers import read_log
from .test_objects import disc, paint, sing, tone


@pytest.fixture(scope="module")
def tiny_checkpoint(tiny_model: SoundingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows how its conditions usually are, as the starter does."""
    config = tiny_model.config
    grounding = dataclasses.replace(config.grounding, norm_matching=True)
    model = SoundingModel(dataclasses.replace(config, grounding=grounding)).requires_grad_(False)
    model.load_state_dict(tiny_model.state_dict(), strict=False)
    model.grounding.condition_length.fill_(0.3)
    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    model.save_pretrained(path, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two new objects: a photograph with a mask and a chirp, and a photograph without one."""
    root = tmp_path_factory.mktemp("own")
    paint(root / "bird.png", (20, 220, 40), (64, 64))
    disc(64).save(root / "bird_mask.png")
    sing(root / "bird.wav", tone(0.6, 3000) * torch.linspace(0, 1, 9600))
    paint(root / "sea.jpg", (30, 60, 230), (90, 60))
    sing(root / "sea.wav", 0.1 * torch.randn(12_000, generator=torch.Generator().manual_seed(3)))
    sing(root / "silent.wav", torch.zeros(8000))
    (root / "licence.txt").write_text("CC-BY-4.0 by me")
    return root


def short(steps: int = 6, **changes: Any) -> FinetuneRecipe:
    loop = LoopConfig(steps=steps, batch=4, lr=2e-3, warmup=2, log_every=2, save_steps=1, keep=1, precision="fp32")
    settings: dict[str, Any] = {
        "text_encoder": loop,
        "grounding": loop,
        "unet": dataclasses.replace(loop, ema=0.9),
        "scenes": 12,
        "known_evaluated": 2,
    }
    return FinetuneRecipe(**settings | changes)


@pytest.fixture(scope="module")
def taught(folder: Path, stamps_folder: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught") / "mine.safetensors"
    loop = dataclasses.replace(short().unet, steps=60, log_every=10)
    report = finetune(
        folder, str(tiny_checkpoint), out, rehearse=[str(stamps_folder)], recipe=short(unet=loop, scenes=24)
    )
    assert report.checkpoint == str(out)
    return out


def test_it_learns_and_leaves_the_rest_as_it_was(taught: Path, tiny_checkpoint: Path) -> None:
    logged = read_log(taught.parent / "mine-run/unet")
    assert logged[-1]["loss"] < 0.95 * logged[0]["loss"]
    before, after = load_file(tiny_checkpoint), load_file(taught)
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name].half(), after[name].half())}
    assert changed == {"grounding", "query", "unet"}
    model = sounding.load(taught, device="cpu")
    sound = model.generate(image=torch.rand(1, 64, 64, 3), text="a bird", seconds=0.64, steps=2).waveform
    assert torch.isfinite(sound).all()


def test_it_says_what_came_of_it(taught: Path) -> None:
    run = taught.parent / "mine-run"
    report = json.loads((run / "report.json").read_text())
    assert report["after"].keys() == report["before"].keys() == {"bird", "sea"}
    assert report["among"] == 5
    assert all(1 <= place <= 5 for places in report["after"].values() for place in places)
    assert len(report["known_after"]) == len(report["known_before"]) == 2
    assert len(report["problems"]) == 2  # the silent recording, and the object that it leaves without any
    metadata = read_header(taught).metadata
    assert "CC-BY-4.0 by me" in metadata["modelspec.license"]
    assert "a bird" in metadata["modelspec.description"]
    assert sorted(file.name for file in (run / "sounds").glob("*.wav")) == [
        "bird-1.wav",
        "bird-2.wav",
        "sea-1.wav",
        "sea-2.wav",
    ]
    assert not list(run.rglob("*.state"))
    assert not list(run.rglob("*.tar"))


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    folder: Path, stamps_folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(name: str) -> Path:
        out = tmp_path / f"{name}.safetensors"
        finetune(folder, str(tiny_checkpoint), out, rehearse=[str(stamps_folder)], recipe=short())
        return out

    whole = load_file(go("whole"))
    for stage, step in ((TextEncoderObjective, 3), (GroundingAdaptationObjective, 2), (GroundedObjective, 4)):
        forward, calls = stage.forward, [0]

        def stopping(self: Any, batch: Any, forward: Any = forward, calls: Any = calls, step: int = step) -> Any:
            calls[0] += 1
            if calls[0] == step:
                raise KeyboardInterrupt
            return forward(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(stage, "forward", stopping)
            with pytest.raises(KeyboardInterrupt):
                go("stopped")
        assert not (tmp_path / "stopped.safetensors").exists()
    resumed = load_file(go("stopped"))
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_another_plan_does_not_go_on_in_an_old_run(
    folder: Path, stamps_folder: Path, tiny_checkpoint: Path, taught: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"rehearse": [str(stamps_folder)]}
    with pytest.raises(ValueError, match="is there already"):
        finetune(folder, str(tiny_checkpoint), taught, recipe=short(), **settings)
    with pytest.raises(ValueError, match=r"does not end in \.safetensors"):
        finetune(folder, str(tiny_checkpoint), tmp_path / "mine.ckpt", recipe=short(), **settings)
    other = taught.with_name("other.safetensors")
    (taught.parent / "mine-run").rename(taught.parent / "other-run")
    try:
        with pytest.raises(ValueError, match="begun with other settings"):
            finetune(folder, str(tiny_checkpoint), other, recipe=short(7), **settings)
    finally:
        (taught.parent / "other-run").rename(taught.parent / "mine-run")


def test_what_another_model_is_to_keep_has_to_be_said(folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--rehearse starter if it was made from the starter"):
        finetune(folder, str(tiny_checkpoint), tmp_path / "mine.safetensors", recipe=short())
    assert not list(tmp_path.iterdir())


def test_nothing_to_learn_is_one_sentence(tmp_path: Path, tiny_checkpoint: Path) -> None:
    paint(tmp_path / "data" / "dog.png")
    command = ["finetune", "--data", str(tmp_path / "data"), "--from", str(tiny_checkpoint), "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "mine.safetensors")])
    assert result.exit_code == 1
    assert "no object with an image and a recording (dog has no recording" in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_checkpoint_says_what_it_was_taught_by(taught: Path) -> None:
    metadata = read_header(taught).metadata
    settings = yaml.safe_load(metadata["training.recipe"])
    assert (settings["scenes"], settings["unet"]["steps"]) == (24, 60)
    assert all(metadata[key] for key in ("training.code", "training.data", "training.start"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_blamed_itself(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """At once, and while what the starter knows is unpacked; not the file that is read meanwhile."""
    out = tmp_path / "mine.safetensors"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(out))

    for place, name in ((Path, "write_bytes"), (known_data, "write_atomic")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, refuse)
            with pytest.raises(OSError, match=os.strerror(number)) as raised:
                finetune(folder, str(tiny_checkpoint), out, rehearse=["starter"], recipe=short())
        assert "starter-objects" not in str(raised.value)
        assert "Errno" not in str(raised.value)
        assert not (tmp_path / "mine-run" / "known" / "manifest.json").exists()


def test_what_the_starter_knows_is_read_from_a_whole_and_plain_file(tmp_path: Path) -> None:
    known_data.unpack(known_data.starter_objects(), tmp_path / "known")
    assert len(ObjectSet(tmp_path / "known")) > 70
    for name in ("image/../../evil.png", "other/a.png", "/image/a.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("manifest.json", "[]")
            archive.writestr(name, b"x")
        with pytest.raises(ValueError, match=r"bad\.zip is no file of known objects"):
            known_data.unpack(tmp_path / "bad.zip", tmp_path / "out")
    whole = known_data.starter_objects().read_bytes()
    (tmp_path / "bad.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"bad\.zip is no file of known objects"):
        known_data.unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["_", "-", "__ -", "_1", "(1)", "\N{FULLWIDTH LOW LINE}"])
def test_files_without_a_name_do_not_end_it(folder: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    paint(data / f"{name}.jpg")
    sing(data / f"{name}.wav", tone(0.5, 500))
    objects, problems = read_objects(data)
    assert {"bird", "sea"} <= {thing.name for thing in objects}
    assert all(caption.strip() for thing in objects for caption in thing.captions)
    assert all("\n" not in problem for problem in problems)


def test_a_dry_run_looks_at_everything_and_writes_nothing(folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    command = ["finetune", "--data", str(folder), "--from", str(tiny_checkpoint), "--out", str(out), "--dry-run"]
    result = CliRunner().invoke(app, [*command, "--rehearse", "starter"])
    assert result.exit_code == 0, result.output
    assert "2 new objects: bird, sea" in result.output
    assert "silent.wav is silent" in result.output
    assert "unet" in result.output
    assert not list(tmp_path.iterdir())
    for more in (["--rehearse", "nowhere"], ["--rehearse", "none", "--recipe", "gone.yaml"], []):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 1
        assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_what_is_kept_is_named(folder: Path, stamps_folder: Path, tmp_path: Path) -> None:
    assert known_objects(["none"], tmp_path) == []
    names = [thing.name for thing in known_objects([str(stamps_folder), str(folder)], tmp_path)]
    assert sorted(names) == ["bar", "bird", "disc", "sea", "square"]
    with pytest.raises(ValueError, match="check --rehearse"):
        known_objects([str(tmp_path)], tmp_path)


def test_what_is_taught_by_a_known_name_takes_its_place(folder: Path, stamps_folder: Path, tmp_path: Path) -> None:
    known, (new, _) = known_objects([str(stamps_folder), str(folder)], tmp_path), read_objects(folder)
    assert [thing.name for thing in unlike(known, new[:1])] == [
        thing.name for thing in known if thing.name != new[0].name
    ]
    shouted = dataclasses.replace(new[1], captions=tuple(caption.upper() for caption in new[1].captions))
    assert len(unlike(known, [shouted])) == len(known) - 1


def test_names_are_learnt_and_known_sentences_keep_their_meaning(
    folder: Path, stamps_folder: Path, tiny_config: Any, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    query = dataclasses.replace(tiny_config.query, hidden=32, heads=2)
    model = SoundingModel(dataclasses.replace(tiny_config, query=query)).requires_grad_(False)
    objects, _ = read_objects(folder)
    kept = known_objects([str(stamps_folder)], tmp_path)
    make_shards(ObjectSceneSource(objects, kept, count=24, seconds=1.28, size=160), tmp_path / "scenes")
    sentences = [thing.captions[0] for thing in kept]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = model.query.encode(sentences)
    items = TextEncoderItems(tmp_path / "scenes", model, sentences, count=20)
    assert len(items) == 20
    item = items.item(0, np.random.default_rng(0))
    assert item["patches"].shape == (25, 16)
    assert item["coverage"].shape == (25,)
    # This encoder is not trained, so its patches are given something to tell: each place is of some object or of none.
    looks = torch.randn(5, 16)
    number = {caption: i for i, thing in enumerate([*objects, *kept]) for caption in thing.captions}
    items.rows = []
    for _ in range(40):
        places, caption = torch.randint(0, 5, (25,)), list(number)[int(torch.randint(len(number), ()))]
        items.rows.append((looks[places], (places == number[caption]).float(), [caption]))
    loop = LoopConfig(steps=150, batch=8, lr=1e-2, warmup=5, log_every=25, precision="fp32")
    train(TextEncoderObjective(model, sentences), items, loop, tmp_path / "run")
    logged = read_log(tmp_path / "run")
    assert logged[-1]["attention"] < 0.9 * logged[0]["attention"]
    assert logged[-1]["moved"] < 0.2
    spread = (asked - asked.mean(0)).square().mean()
    assert float((model.query.encode(sentences) - asked).square().mean() / spread) < 0.2
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("query.") for name in changed)


def test_items_say_what_was_known(folder: Path, stamps_folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    new, _ = read_objects(folder)
    source = ObjectSceneSource(new, known_objects([str(stamps_folder)], tmp_path), count=12, seconds=1.28, size=160)
    make_shards(source, tmp_path / "scenes")
    model = sounding.load(tiny_checkpoint, device="cpu")
    make_shards(FeatureSource(tmp_path / "scenes", model), tmp_path / "features")
    items = DistillationItems(tmp_path / "features", model, GroundedFinetuningSettings(), len(new))
    heard = Shards(tmp_path / "scenes", ("labels", "sounding"))
    told = [bool(items.item(i, np.random.default_rng(i))["known"]) for i in range(12)]
    for index, known in enumerate(told):
        row = heard[index]
        assert known == all(row["labels"][place] >= len(new) for place in row["sounding"])
    assert {True, False} == set(told)


def test_its_recipe_reads() -> None:
    recipe = read_recipe(RECIPES / "finetune.yaml", FinetuneRecipe)
    assert min(recipe.text_encoder.steps, recipe.unet.steps) > 0
