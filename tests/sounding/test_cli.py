"""`sounding` as a person types it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
import typer
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.loudness import LOUDNESS, loudness
from sounding.cli.app import app
from sounding.cli.demo import OBJECTS
from sounding.cli.terminal import plain_errors
from sounding.images.drawing import mel_image, overlay
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel

from .cli_runs import folder, left, refused, sounding

__all__ = ["folder"]


ROOT = Path(__file__).parents[2]


def test_one_mask_makes_one_sound_of_the_length(folder: Path) -> None:
    result = sounding(folder, "--mask", str(folder / "left.png"), "--out", str(folder / "a.wav"), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["files"] == [str(folder / "a.wav")]
    samples, rate = soundfile.read(folder / "a.wav")
    assert (len(samples), rate) == (8000, 16000)
    assert report["samples"] == 8000
    assert np.abs(samples).max() > 0


def test_several_masks_make_tracks_and_their_mix(folder: Path) -> None:
    masks = ("--mask", str(folder / "left.png"), "--mask", str(folder / "right.png"))
    assert sounding(folder, *masks, "--out", str(folder / "both.wav")).exit_code == 0
    tracks = [soundfile.read(folder / f"both_{i}.wav")[0] for i in (1, 2)]
    assert np.abs(tracks[0] - tracks[1]).max() > 0.01
    mixed = soundfile.read(folder / "both.wav")[0]
    assert np.abs(mixed - sum(tracks)).max() < 4 / 32768  # two leveled tracks have room enough
    # the second one 12 dB down: what that takes away is three quarters of it
    assert sounding(folder, *masks, "--gain", "0", "--gain", "-12", "--out", str(folder / "less.wav")).exit_code == 0
    taken = mixed - soundfile.read(folder / "less.wav")[0]
    assert np.abs(taken - (1 - 10 ** (-12 / 20)) * tracks[1]).max() < 6 / 32768


def test_level_is_a_switch(folder: Path, tiny_checkpoint: Path) -> None:
    mask = ("--mask", str(folder / "left.png"))
    for name, switch in {"on": "--level", "off": "--no-level"}.items():
        assert sounding(folder, *mask, switch, "--out", str(folder / f"{name}.wav")).exit_code == 0
    on, off = (soundfile.read(folder / f"{name}.wav", dtype="float32")[0] for name in ("on", "off"))
    import torch

    import sounding as library

    raw = (
        library.load(tiny_checkpoint, device="cpu")
        .generate(
            image=read_image(folder / "picture.png"),
            mask=torch.nn.functional.interpolate(read_mask(folder / "left.png")[None], (48, 64), mode="area")[0],
            seconds=0.5,
            steps=2,
            level=False,
        )
        .waveform[0, 0]
    )
    assert np.abs(off - raw.numpy()).max() < 0.01 * np.abs(off).max() + 2 / 32768
    assert float(loudness(torch.from_numpy(on), 16_000)) == pytest.approx(LOUDNESS, abs=0.1)
    assert float(loudness(torch.from_numpy(off), 16_000)) != pytest.approx(LOUDNESS, abs=0.1)
    assert (on[0], on[-1]) == (0, 0)


@pytest.mark.parametrize("seconds", ["1.0", "2.555", "7.3", "20"])
def test_lengths_to_the_sample(folder: Path, seconds: str) -> None:
    """Beyond the training's 1.28 s as well."""
    mask = ("--mask", str(folder / "left.png"), "--seconds", seconds, "--steps", "1")
    assert sounding(folder, *mask, "--out", str(folder / "a.wav")).exit_code == 0
    assert soundfile.info(folder / "a.wav").frames == round(float(seconds) * 16_000)


def test_seed_decides_and_a_batch_goes_on_counting(folder: Path) -> None:
    mask = ("--mask", str(folder / "left.png"))
    for name, more in {"a": ("--seed", "3"), "b": ("--seed", "3"), "c": ("--seed", "4")}.items():
        assert sounding(folder, *mask, *more, "--out", str(folder / f"{name}.wav")).exit_code == 0
    assert sounding(folder, *mask, "--seed", "3", "--batch", "2", "--out", str(folder / "d.wav")).exit_code == 0
    a, b, c, first, second = (soundfile.read(folder / f"{n}.wav")[0] for n in ("a", "b", "c", "d_1", "d_2"))
    assert np.array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3
    assert np.abs(a - first).max() < 1e-3
    assert np.abs(c - second).max() < 1e-3


def test_text_and_attention_map(folder: Path) -> None:
    result = sounding(
        folder, "--text", "a dog", "--out", str(folder / "t.flac"), "--attention-map", str(folder / "map.png")
    )
    assert result.exit_code == 0, result.output
    assert soundfile.info(folder / "t.flac").format == "FLAC"
    assert Image.open(folder / "map.png").size == (64, 48)


def test_text_joins_a_mask_and_what_is_not_to_be_heard_is_left_out(folder: Path) -> None:
    out = ("--out", str(folder / "a.wav"), "--json")
    plain = json.loads(sounding(folder, *left(folder), *out).stdout)
    assert plain["source"] == "mask"
    assert "sentences" not in plain
    joined = sounding(folder, *left(folder), "--text", "a dog", *out)
    report = json.loads(joined.stdout)
    assert (report["source"], report["sentences"]) == ("text", ["a dog"])
    first = soundfile.read(folder / "a.wav")[0]
    unwanted = ("--negative-text", "rain", "--negative-mask", str(folder / "right.png"))
    result = sounding(folder, *left(folder), "--text", "a dog", *unwanted, *out)
    assert result.exit_code == 0, result.output
    assert np.abs(first - soundfile.read(folder / "a.wav")[0]).max() > 1e-3
    unguided = sounding(folder, *left(folder), *unwanted, "--cfg", "1", *out)
    assert unguided.exit_code == 0, unguided.output
    assert "at guidance 1" in unguided.stderr


def test_masks_are_named_if_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sounding.model import SoundingModel
    from sounding.naming.names import Named

    answers = [Named("dog", 0.8, (("dog", 0.8),)), Named("cat", 0.3, (("cat", 0.3),))]
    monkeypatch.setattr(SoundingModel, "name", lambda model, image, mask, top: answers[: len(mask)])
    masks = (*left(folder), "--mask", str(folder / "right.png"))
    result = sounding(folder, *masks, "--by", "names", "--text", "far away", "--out", str(folder / "a.wav"), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["source"] == "name"
    assert report["sentences"] == ["a dog far away", "a cat far away"]
    assert report["sureness"] == [0.8, 0.3]
    assert "not sure what mask 2, taken for 'a cat far away', shows" in result.stderr


def test_placed_tracks_and_their_mix_are_stereo(folder: Path) -> None:
    masks = ("--mask", str(folder / "left.png"), "--mask", str(folder / "right.png"))
    out = ("--out", str(folder / "scene.wav"), "--json")
    result = sounding(folder, *masks, "--place", "--loudness", "-30", *out)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["places"]
    assert first["pan"] == pytest.approx(-second["pan"])
    assert first["pan"] < 0
    files = {name: soundfile.read(folder / f"{name}.wav")[0] for name in ("scene", "scene_1", "scene_2")}
    assert {sound.shape for sound in files.values()} == {(8000, 2)}
    left, right = (np.sqrt((files[name] ** 2).mean(axis=0)) for name in ("scene_1", "scene_2"))
    for found, place in ((left, first), (right, second)):
        assert 4 / np.pi * np.arctan2(found[1], found[0]) - 1 == pytest.approx(place["pan"], abs=0.01)
    meter = pyloudnorm.Meter(16_000)
    assert meter.integrated_loudness(files["scene"]) == pytest.approx(-30, abs=0.1)
    assert "loudness" in json.loads(result.stdout)
    assert "LUFS instead" not in result.stderr
    loud = sounding(folder, *masks, "--loudness", "-5", *out)
    assert f"the mix has {json.loads(loud.stdout)['loudness']} LUFS instead of -5" in loud.stderr


def test_a_depth_map_says_how_far(folder: Path) -> None:
    grey = np.full((10, 10, 4), 51, np.uint8)
    grey[..., 3] = 255  # what many tools write: a transparency that hides nothing
    Image.fromarray(grey).save(folder / "depth.png")
    out = ("--out", str(folder / "far.wav"), "--json")
    result = sounding(folder, "--mask", str(folder / "left.png"), "--place", "--depth", str(folder / "depth.png"), *out)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["places"][0]["distance"] == pytest.approx(5, abs=0.02)


@pytest.mark.parametrize("seed", ["0", str(2**64 - 1)])
def test_all_seeds_work_for_all_of_a_batch(folder: Path, seed: str) -> None:
    result = sounding(folder, *left(folder), "--seed", seed, "--batch", "2", "--out", str(folder / "a.wav"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["seed"] == int(seed)


def test_long_names_and_new_folders_are_written(folder: Path) -> None:
    for out in (folder / ("n" * 251 + ".wav"), folder / "new" / "deeper" / "a.flac"):
        result = sounding(folder, *left(folder), "--out", str(out))
        assert result.exit_code == 0, result.output
        assert soundfile.info(out).frames == 8000


def test_what_the_model_is_not_sure_of_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    ground = SoundingModel.ground
    out = ("--out", str(folder / "a.wav"))
    masks = (*left(folder), "--mask", str(folder / "right.png"))
    for sure, doubts in (((0.9, 0.2), ["mask 2"]), ((0.1, 0.2), ["mask 1", "mask 2"]), ((1.0, 0.9), [])):

        def grounded(self: Any, *args: Any, sure: Any = sure, **settings: Any) -> Any:
            return dataclasses.replace(ground(self, *args, **settings), sureness=torch.tensor(sure))

        monkeypatch.setattr(SoundingModel, "ground", grounded)
        result = sounding(folder, *masks, *out, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["sureness"] == pytest.approx(sure)
        assert [line.partition("what ")[2].partition(" shows")[0] for line in result.stderr.splitlines()] == doubts


def test_no_memory_and_a_full_disk_are_sentences(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[BaseException] = [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        OSError(errno.ENOSPC, "No space left on device"),
    ]
    for error, says in zip(errors, ("not enough memory", "not enough memory", "disk is full"), strict=True):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("sounding.model.SoundingModel.generate", fail)
        assert says in refused(folder)


def test_what_the_system_says_of_a_file_is_a_sentence_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), plain_errors():
        (tmp_path / "absent").read_bytes()
    said = f"sounding: {tmp_path / 'absent'} cannot be used (No such file or directory); check the path."
    assert capsys.readouterr().err.splitlines() == [said]


def test_names_that_steer_a_terminal_are_shown_and_written(folder: Path) -> None:
    out = folder / "a\x1b[2J\u202e.wav"
    result = sounding(folder, *left(folder), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert out.is_file()
    assert result.stdout == f"{folder}/a\\x1b[2J\\u202e.wav\n"
    line = sounding(folder, *left(folder), "--out", str(out), "--json").stdout
    assert json.loads(line)["files"] == [str(out)]
    assert line.isascii()


def test_the_former_spelling_of_the_sampler_goes_on_working(folder: Path) -> None:
    mask = left(folder)
    for option in ("--sampler", "--scheduler"):
        done = sounding(folder, *mask, option, "ddim", "--out", str(folder / f"{option[2:]}.wav"))
        assert done.exit_code == 0, done.output
    assert (folder / "sampler.wav").read_bytes() == (folder / "scheduler.wav").read_bytes()
    assert "--scheduler" not in CliRunner().invoke(app, ["generate", "--help"]).output


def test_info_shows_what_training_wrote(folder: Path, tiny_model: SoundingModel) -> None:
    path = folder / "trained.safetensors"
    tiny_model.save_pretrained(path, record={"training.code": "abc", "training.recipe": "{}"})
    described = json.loads(CliRunner().invoke(app, ["info", str(path), "--json"]).stdout)
    assert described["training"] == {"training.code": "abc", "training.recipe": "{}"}
    assert "training.code: abc" in CliRunner().invoke(app, ["info", str(path)]).stdout


def test_info_shows_parts_and_configuration(folder: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(folder / "tiny.safetensors"), "--json"])
    described = json.loads(result.stdout)
    assert set(described["parameters"]) == {"patches", "query", "grounding", "unet", "vae", "vocoder"}
    assert described["config"]["name"] == "tiny"
    assert described["bytes"] == (folder / "tiny.safetensors").stat().st_size
    shown = CliRunner().invoke(app, ["info", str(folder / "tiny.safetensors")]).stdout
    assert "unet" in shown
    assert "total" in shown


def test_demo_writes_what_it_names(folder: Path) -> None:
    out = folder / "demo"
    result = CliRunner().invoke(
        app, ["demo", "--out", str(out), "--model", str(folder / "tiny.safetensors"), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    for name in OBJECTS:
        assert soundfile.info(out / f"{name}.wav").frames == 80_000
        assert Image.open(out / f"{name}_mel.png").height == 256
        for kind in ("mask", "attention"):
            assert Image.open(out / f"{name}_{kind}.png").size == (512, 384)
    assert str(out / "overview.jpg") in result.stdout.replace("\n", "")


def test_masks_are_read_from_grey_and_from_cut_outs(tmp_path: Path) -> None:
    grey = np.zeros((4, 4), np.uint8)
    grey[1, 2] = 255
    Image.fromarray(grey).save(tmp_path / "grey.png")
    cutout = np.full((4, 4, 4), 90, np.uint8)
    cutout[..., 3] = grey
    Image.fromarray(cutout).save(tmp_path / "cutout.png")
    for name in ("grey", "cutout"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png")[0].numpy(), grey / 255)
    picture = read_image(tmp_path / "cutout.png")[0].numpy()
    assert picture[1, 2] == pytest.approx([90 / 255] * 3)
    assert picture[0, 0] == pytest.approx([1.0] * 3)  # transparent parts are white


def test_pictures_show_low_notes_below_and_selections_bright() -> None:
    import torch

    mel = torch.full((1, 40, 64), -11.0)
    mel[:, :, :8] = 2.0
    shown = mel_image(mel)[0]
    assert shown[-10:].mean() > 0.6 > 0.2 > shown[:100].mean()
    values = torch.zeros(1, 8, 8)
    values[0, :, 4:] = 1.0
    lit = overlay(torch.full((1, 8, 8, 3), 0.5), values)[0]
    assert lit[:, 6].mean() > lit[:, 1].mean() + 0.2


def test_unknown_words_are_answered_with_the_nearest_known_ones(
    folder: Path, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_model.config, vocabulary=("a dog", "a red cow", "a cat"))
    model = SoundingModel(config)
    model.load_state_dict(tiny_model.state_dict())
    generation = dataclasses.replace(config.generation, name_cosine=(0.99999, 1.0))
    model.config = dataclasses.replace(config, generation=generation)
    model.save_pretrained(folder / "tiny.safetensors")
    out = ("--out", str(folder / "a.wav"), "--json")
    encoded: list[str] = []
    encode = type(model.query).encode
    monkeypatch.setattr(
        type(model.query), "encode", lambda query, texts: [encoded.extend(texts), encode(query, texts)][1]
    )
    unknown = sounding(folder, "--text", "a spaceship taking off", *out)
    assert unknown.exit_code == 0, unknown.output
    assert encoded.count("a spaceship taking off") == 1
    assert "'a spaceship taking off' is not among the 3 known names" in unknown.stderr
    report = json.loads(unknown.stdout)
    assert report["sureness"][0] < 0.5
    assert {one["name"] for one in report["nearest"]} == {"a dog", "a red cow", "a cat"}
    cosines = [one["cosine"] for one in report["nearest"]]
    assert cosines == sorted(cosines, reverse=True)
    assert f"nearest are '{report['nearest'][0]['name']}' ({cosines[0]:.2f})" in unknown.stderr
    known = sounding(folder, "--text", "A dog", *out)
    assert "known names" not in known.stderr
    assert json.loads(known.stdout)["sureness"] == [1]


def test_stems_are_a_folder_that_is_written_once(folder: Path) -> None:
    arguments = [*left(folder), "--mask", str(folder / "right.png"), "--place", "--gain", "0", "--gain", "-6"]
    shown = Path(os.path.relpath(folder / "stems"))
    arguments += ["--stems", str(shown), "--bits", "24", "--rate", "44100", "--seed", "7"]
    result = sounding(folder, "--out", str(folder / "scene.wav"), *arguments, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert sorted(report["stems"]) == sorted(str(shown / file.name) for file in (folder / "stems").iterdir())
    listed = json.loads((folder / "stems" / "stems.json").read_text())
    assert [each["file"] for each in listed["stems"]] == ["01_left.wav", "02_right.wav"]
    assert [each["seed"] for each in listed["stems"]] == [7, 8]
    assert [each["gain_db"] for each in listed["stems"]] == [0, -6]
    assert listed["stems"][0]["pan"] == pytest.approx(-0.5, abs=0.02)
    assert listed["stems"][0]["box"] == [4, 8, 28, 40]
    for name in ("scene.wav", "scene_1.wav", "stems/01_left.wav", "stems/mix.wav"):
        info = soundfile.info(folder / name)
        assert (info.samplerate, info.subtype, info.frames) == (44_100, "PCM_24", report["samples"])
    mix, own = (soundfile.read(folder / name)[0] for name in ("stems/mix.wav", "scene.wav"))
    np.testing.assert_allclose(mix, own, atol=1e-6)
    again = sounding(folder, "--out", str(folder / "scene.wav"), *arguments)
    assert again.exit_code == 1
    assert "is there already, but a new folder is expected" in again.stderr
