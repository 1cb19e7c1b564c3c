"""Folders of images and recordings as people have them: which files belong together, and what is said of the rest."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from training.data.pairs import Pair, PairSource, find_pairs
from training.data.prepare import app
from training.data.shard_format import Sample, ShardIndex
from training.data.shards import Shards
from training.finetune.objects import named, read_objects

from ..conftest import ROOT
from .video_material import tone_of

TONE = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 16_000)


def paint(path: Path, colour: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 30), colour).save(path, "PNG" if path.suffix.lower() == ".jpe" else None)


def sing(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, TONE, 16_000)


def found(folder: Path) -> dict[str, Pair]:
    return {pair.id: pair for pair in find_pairs(folder)[0]}


@pytest.mark.parametrize(
    "mask",
    [
        "sedan_mask.png", "sedan_mask.jpg", "sedan_Mask.png", "sedan-mask.JPG", "sedan mask.webp", "sedan.mask.png",
        "sedan_MASK_1.tif", "sedan_mask(2).png", "sedan mask 3.bmp", "SEDAN_MASK.PNG", "sedan_masks.gif",
    ],
)  # fmt: skip
def test_masks_of_every_ending_and_case_are_masks(mask: str, tmp_path: Path) -> None:
    paint(tmp_path / "sedan.jpg")
    sing(tmp_path / "sedan.wav")
    paint(tmp_path / mask, 255)
    pairs, left_out = find_pairs(tmp_path)
    assert pairs == [Pair("sedan", "sedan.jpg", "sedan.wav", (mask,), None, None)]
    assert left_out == []
    objects, problems = read_objects(tmp_path)
    assert problems == []
    assert [(thing.name, len(thing.pictures)) for thing in objects] == [("sedan", 1)]


def test_a_picture_of_a_mask_is_a_picture(tmp_path: Path) -> None:
    for name in ("gas_mask.jpg", "carnival mask 1.jpg", "carnival mask 2.jpg"):
        paint(tmp_path / name)
    for name in ("gas_mask.wav", "carnival mask.wav"):
        sing(tmp_path / name)
    assert found(tmp_path)["gas_mask"] == Pair("gas_mask", "gas_mask.jpg", "gas_mask.wav", (), None, None)
    objects, problems = read_objects(tmp_path)
    assert problems == []
    assert {thing.name: len(thing.pictures) for thing in objects} == {"gas_mask": 1, "carnival mask": 2}


def test_masks_come_by_their_numbers(tmp_path: Path) -> None:
    paint(tmp_path / "farm.png")
    sing(tmp_path / "farm.wav")
    for number in (10, 2, 1):
        paint(tmp_path / f"farm_mask_{number}.png")
    assert found(tmp_path)["farm"].masks == ("farm_mask_1.png", "farm_mask_2.png", "farm_mask_10.png")


def test_names_with_accents_are_one_in_whichever_form(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "zoo/café") for form in ("NFC", "NFD"))
    paint(tmp_path / f"{apart}.jpg")
    paint(tmp_path / f"{composed}_mask.png")
    sing(tmp_path / f"{composed}.wav")
    (tmp_path / f"{apart}.txt").write_text("a coffee machine")
    (pair,) = find_pairs(tmp_path)[0]
    assert pair == Pair(composed, f"{apart}.jpg", f"{composed}.wav", (f"{composed}_mask.png",), f"{apart}.txt", None)
    source = PairSource(tmp_path, seconds=1, size=16, licence="")
    assert source.make(0).captions == ("a coffee machine",)


def test_case_joins_a_picture_and_a_sound_that_lack_each_other(tmp_path: Path) -> None:
    paint(tmp_path / "Dog.JPG")
    sing(tmp_path / "dog.WAV")
    (tmp_path / "DOG.txt").write_text("a dog")
    for name in ("Cat", "cat"):  # two of each: on a Mac they could not be, elsewhere they are two
        paint(tmp_path / f"{name}.png")
        sing(tmp_path / f"{name}.wav")
    pairs = found(tmp_path)
    assert (pairs["Dog"].picture, pairs["Dog"].sound) == ("Dog.JPG", "dog.WAV")
    assert (pairs["Cat"].sound, pairs["cat"].sound) == ("Cat.wav", "cat.wav")
    objects, problems = read_objects(tmp_path)
    assert problems == []
    assert {thing.name.lower(): thing.captions[0] for thing in objects} == {"cat": "a cat", "dog": "a dog"}


def test_notes_and_licences_are_texts_alone(tmp_path: Path) -> None:
    """A musical note, or a copying machine, may be an object."""
    for name in ("note", "notes", "copying", "readme", "licence"):
        paint(tmp_path / f"{name}.jpg")
        sing(tmp_path / f"{name}.wav")
    (tmp_path / "note.txt").write_text("a note on a piano")
    (tmp_path / "License.txt").write_text("CC0")
    (tmp_path / "README.md").write_text("mine")
    pairs = found(tmp_path)
    assert sorted(pairs) == ["copying", "licence", "note", "notes", "readme"]
    assert {pair.licence for pair in pairs.values()} == {"License.txt"}
    objects, problems = read_objects(tmp_path)
    assert problems == []
    assert {thing.name: thing.captions[0] for thing in objects} == {
        "copying": "a copying",
        "licence": "a licence",
        "note": "a note on a piano",
        "notes": "a notes",
        "readme": "a readme",
    }
    assert {thing.licence for thing in objects} == {"CC0"}


@pytest.mark.parametrize("name", ["_", "-", "__1", " ", "_ (2)", "!!!"])
def test_names_without_a_word_need_a_caption(name: str, tmp_path: Path) -> None:
    paint(tmp_path / f"{name}.jpg")
    sing(tmp_path / f"{name}.wav")
    paint(tmp_path / "dog.jpg")
    sing(tmp_path / "dog.wav")
    objects, problems = read_objects(tmp_path)
    if name != "__1":
        (problem,) = problems
        assert "has no word in its name" in problem
    assert "dog" in [thing.name for thing in objects]
    assert named("_") == named("") == ""
    (tmp_path / f"{name}.txt").write_text("a thing")
    assert ("a thing",) in [thing.captions for thing in read_objects(tmp_path)[0]]


def test_everything_that_is_left_out_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.jpg", "a.png", "A.JPG", "lost_mask.png", "b.png", "._a.jpg", "c.jpg"):
        paint(folder / name)
    for name in ("a.wav", "a.flac", "b.wav", "alone.wav"):
        sing(folder / name)
    for name in ("c.heic", "c.m4a", "d.psd"):
        (folder / name).write_bytes(b"x")
    (folder / "orphan.txt").write_text("of nothing")
    (folder / "c.txt").write_bytes(b"\xff\xfe\xfa")
    (folder / "readme.txt").write_text("not counted")
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    result = CliRunner().invoke(app, ["pairs", str(folder), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    index = ShardIndex.read(tmp_path / "out")
    assert {left.id: left.why for left in index.left_out} == {
        "a.png": "a.jpg is the image of that name; give one of them.",
        "a.wav": "a.flac is the sound of that name; give one of them.",
        "broken.png": "It is a broken link, or no ordinary file.",
        "c.heic": "It is of a kind that is not read; save images as JPEG or PNG, recordings as WAV or FLAC.",
        "c.m4a": "It is of a kind that is not read; save images as JPEG or PNG, recordings as WAV or FLAC.",
        "d.psd": "It is of a kind that is not read; save images as JPEG or PNG, recordings as WAV or FLAC.",
        "lost_mask.png": "There is no image that it is a mask of.",
        "orphan.txt": "There is no image or sound of that name.",
    }
    assert {skip.id: skip.why for skip in index.skipped} == {
        "A": "A has an image but no sound of the same name.",
        "alone": "alone has a sound but no image of the same name.",
        "c": "c has an image but no sound of the same name.",
    }
    assert "8 files or rows are left out" in result.output
    assert index.bare == ("a", "b")
    assert "2 samples have neither a caption nor a mask" in result.output
    assert "(a, b)" in result.output


def test_one_bad_file_of_any_kind_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sounding.audio import files as audio

    kinds: list[type[Exception]] = [ValueError, KeyError, RuntimeError, MemoryError, RecursionError, ZeroDivisionError]
    for number in range(len(kinds) + 1):
        paint(tmp_path / "in" / f"{number}.png")
        sing(tmp_path / "in" / f"{number}.wav")
    (tmp_path / "in" / "6.txt").write_bytes(b"L\xf6we")
    read = audio.read_audio

    def breaking(path: Path, rate: int) -> torch.Tensor:
        if path.stem.isdigit() and int(path.stem) < len(kinds):
            raise kinds[int(path.stem)]("said so\nat length")
        return read(path, rate)

    monkeypatch.setattr(audio, "read_audio", breaking)
    paint(tmp_path / "in" / "fine.png")
    sing(tmp_path / "in" / "fine.wav")
    result = CliRunner().invoke(app, ["pairs", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    index = ShardIndex.read(tmp_path / "out")
    assert [Shards(tmp_path / "out", ("id",))[0]["id"]] == ["fine"]
    for kind, skipped in zip(kinds, index.skipped, strict=False):
        assert skipped.why.startswith("said so" if kind is ValueError else f"{kind.__name__}: ")
        assert "\n" not in skipped.why
    assert "6.txt cannot be read" in index.skipped[6].why


def test_a_picture_with_a_broken_exif_block_is_no_end_of_a_run(tmp_path: Path) -> None:
    cases = ROOT.parent / "shared" / "cases"
    data = (cases / "badexif.webp").read_bytes() if cases.is_dir() else b"RIFF\x10\0\0\0WEBPVP8X"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.webp").write_bytes(data)
    sing(tmp_path / "in" / "bad.wav")
    paint(tmp_path / "in" / "good.png")
    sing(tmp_path / "in" / "good.wav")
    result = CliRunner().invoke(app, ["pairs", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    index = ShardIndex.read(tmp_path / "out")
    assert index.samples + len(index.skipped) == 2
    assert index.samples >= 1


def test_sixteen_bits_are_grey_in_pairs_and_own_objects(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 320).astype(np.uint16), (240, 1))
    Image.fromarray(ramp).save(tmp_path / "dog.png")
    Image.fromarray(ramp).save(tmp_path / "dog_mask.tif")
    sing(tmp_path / "dog.wav")
    sample = PairSource(tmp_path, seconds=1, size=240, licence="").make(0)
    assert sample.images[0].mean() / 255 == pytest.approx(0.5, abs=0.005)
    assert sample.masks[0].mean() / 255 == pytest.approx(0.5, abs=0.005)
    (thing,), problems = read_objects(tmp_path)
    assert problems == []
    assert np.asarray(thing.pictures[0].image).mean() / 255 == pytest.approx(0.5, abs=0.005)


def test_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = b"x\xffy".decode("utf-8", "surrogateescape")
    paint(folder / f"{name}.png")
    paint(folder / "dog.png")
    sing(folder / "dog.wav")
    (folder / f"{name}.psd").write_bytes(b"x")
    result = CliRunner().invoke(app, ["pairs", str(folder), "--out", str(tmp_path / "out"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert result.output.count("x\\udcffy") == 3
    assert [skip.id for skip in ShardIndex.read(tmp_path / "out").skipped] == ["x\\udcffy"]
    sample = Sample(name, (), "", name, 1.0)
    assert json.loads(sample.members()["json"])["id"] == name


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """Two good pairs, one of them in a subfolder, and bad ones."""
    folder = tmp_path / "pairs"
    (folder / "zoo").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tone = torch.sin(2 * math.pi * 440 * torch.arange(3 * 22_050) / 22_050)
    for stem in ("dog", "zoo/lion", "quiet"):
        pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.png")
        write_audio(folder / f"{stem}.wav", tone * (stem != "quiet"), 22_050)
    mask = np.zeros((60, 90), np.uint8)
    mask[:30, :45] = 255
    Image.fromarray(mask).save(folder / "zoo" / "lion_mask_1.png")
    Image.fromarray(mask.T.copy()).resize((90, 60)).save(folder / "zoo" / "lion_mask_2.png")
    (folder / "zoo" / "lion.txt").write_text("a lion roars\n\nein Löwe brüllt\n", encoding="utf-8")
    (folder / "zoo" / "licence.txt").write_text("CC-BY 4.0\n")
    Image.new("RGB", (8, 8)).save(folder / "alone.jpg")
    (folder / "unreadable.jpg").write_bytes(b"no image")
    write_audio(folder / "unreadable.wav", tone, 22_050)
    (folder / "notes.md").write_text("not of a pair")
    return folder


def test_pairs_become_shards(pair_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["pairs", str(pair_folder), "--out", str(out), "--size", "32", "--seconds", "0.4", "--licence", "CC0"]
    result = CliRunner().invoke(app, [*command, "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "2 samples in 1 shards" in result.output
    fields = ("id", "captions", "licence", "seconds", "waveform", "images")
    dog, lion = list(Shards(out, fields, optional=("masks", "sounding")))
    assert (dog["id"], dog["captions"], dog["licence"]) == ("dog", [], "CC0")
    assert "masks" not in dog
    assert (lion["id"], lion["licence"]) == ("zoo/lion", "CC-BY 4.0")
    assert lion["captions"] == ["a lion roars", "ein Löwe brüllt"]
    assert lion["seconds"] == pytest.approx(6 * 0.4)
    assert tone_of(lion["waveform"].numpy()) == pytest.approx(440, abs=1)
    assert lion["images"].shape == (1, 32, 48, 3)
    assert lion["masks"].shape == (2, 32, 48)
    assert lion["sounding"] == [0, 1]
    assert lion["masks"][0, :15, :23].min() > 240
    assert lion["masks"][0, 17:].max() < 15
    reasons = {skipped.id: skipped.why for skipped in ShardIndex.read(out).skipped}
    assert reasons.keys() == {"alone", "quiet", "unreadable"}
    assert "alone has an image but no sound" in reasons["alone"]
    assert "cannot be read as an image" in reasons["unreadable"]


def test_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images or sounds"):
        PairSource(tmp_path, seconds=10, size=64, licence="")
    result = CliRunner().invoke(app, ["pairs", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "is not a folder" in result.output
