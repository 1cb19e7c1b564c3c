"""`sounding` as a person types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner, Result

from sounding.audio import LOUDNESS, loudness
from sounding.cli import app
from sounding.demo import OBJECTS
from sounding.pictures import mel_picture, overlay, read_image, read_mask

ROOT = Path(__file__).parent.parent


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
    common = ("--model", str(folder / "tiny.safetensors"), "--device", "cpu", "--steps", "2", "--seconds", "0.5")
    picture = ("--image", str(folder / "picture.png"))
    return CliRunner().invoke(app, ["generate", *picture, *common, *arguments])


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mask", "nothing.png", "--out", "x.wav"), "nothing.png cannot be read as a picture"),
        (("--mask", "left.png", "--text", "a dog", "--out", "x.wav"), "leave one of them out"),
        (("--mask", "left.png", "--out", "x.xyz"), ".wav, .flac or .ogg is expected"),
        (("--mask", "black.png", "--out", "x.wav"), "mask is empty"),
        (("--mask", "left.png", "--out", "x.wav", "--seconds", "0"), "positive length"),
        (("--mask", "left.png", "--out", "x.wav", "--scheduler", "euler"), "one of ddim"),
        (("--mask", "left.png", "--out", "x.wav", "--model", "no.safetensors"), "no.safetensors is not a file"),
        (("--mask", "left.png", "--mask", "right.png", "--batch", "2", "--out", "x.wav"), "--batch"),
        (("--text", " ", "--out", "x.wav"), "a sentence is expected"),
        (("--mask", "left.png", "--gain", "1", "--gain", "2", "--out", "x.wav"), "one a mask is expected"),
    ],
)
def test_bad_input_gets_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    Image.new("L", (64, 48)).save(folder / "black.png")
    monkeypatch.chdir(folder)
    result = sounding(folder, *arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert not list(folder.glob("x*"))


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
    shown = mel_picture(mel)[0]
    assert shown[-10:].mean() > 0.6 > 0.2 > shown[:100].mean()
    values = torch.zeros(1, 8, 8)
    values[0, :, 4:] = 1.0
    lit = overlay(torch.full((1, 8, 8, 3), 0.5), values)[0]
    assert lit[:, 6].mean() > lit[:, 1].mean() + 0.2
