"""A person's own folder: which files are one object's, what is said of bad ones, and what samples are made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sounding.audio.files import write_audio
from training.data.object_set import ObjectSet
from training.data.waveforms import fill
from training.finetune import rehearsal as known
from training.finetune.objects import Picture, TaughtObject, named, read_objects, read_pictures
from training.finetune.retrieval import MelRetrieval
from training.finetune.scenes import Cast, ObjectSceneSource, whole_scene

from .conftest import TONES


def tone(seconds: float = 0.5, pitch: float = 440.0) -> Tensor:
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(round(16_000 * seconds)) / 16_000)


def paint(path: Path, colour: tuple[int, ...] = (250, 0, 0), size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)


def sing(path: Path, waveform: Tensor | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, tone() if waveform is None else waveform, 16_000)


def disc(size: int = 48) -> Image.Image:
    across, down = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return Image.fromarray((255 * (across**2 + down**2 < 0.5)).astype(np.uint8))


def test_files_of_one_name_numbered_ones_and_sub_folders_are_one_object(tmp_path: Path) -> None:
    paint(tmp_path / "German_Shepherd.jpg")
    sing(tmp_path / "German_Shepherd.wav")
    for name in ("cat_1.jpg", "cat_2.png", "cat (3).JPG"):
        paint(tmp_path / name)
    sing(tmp_path / "cat-1.flac")
    sing(tmp_path / "cat 2.ogg")
    (tmp_path / "cat.txt").write_text("Our cat.\n\na cat that purrs\n", encoding="utf-8")
    paint(tmp_path / "bell" / "DSC01.png")
    sing(tmp_path / "bell" / "old" / "ding.wav")
    (tmp_path / "bell" / "LICENCE.txt").write_text("CC0-1.0\n")
    paint(tmp_path / "boeing_747.jpg")  # three figures are no number of a picture
    sing(tmp_path / "boeing_747.wav")
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "readme.txt").write_text("mine")
    objects, problems = read_objects(tmp_path, "private")
    assert problems == []
    assert {thing.name: (len(thing.pictures), len(thing.recordings)) for thing in objects} == {
        "German_Shepherd": (1, 1),
        "bell": (1, 1),
        "boeing_747": (1, 1),
        "cat": (3, 2),
    }
    captions = {thing.name: thing.captions for thing in objects}
    assert captions["German_Shepherd"] == ("a german shepherd", "german shepherd")
    assert captions["cat"] == ("Our cat", "a cat that purrs")
    assert {thing.name: thing.licence for thing in objects}["bell"] == "CC0-1.0"
    assert objects[0].licence == "private"
    assert named("apple") == "an apple"
    assert named("my-dog") == "my dog"


def test_masks_and_transparency_are_outlines_and_photographs_have_none(tmp_path: Path) -> None:
    for name in ("masked", "clear", "whole"):
        sing(tmp_path / f"{name}.wav")
    paint(tmp_path / "masked.jpg", size=(96, 48))
    disc().save(tmp_path / "masked_mask.png")
    image = Image.new("RGBA", (48, 48), (0, 200, 0, 255))
    image.putalpha(disc())
    image.save(tmp_path / "clear.png")
    paint(tmp_path / "whole.jpg")
    objects, problems = read_objects(tmp_path)
    assert problems == []
    pictures = {thing.name: thing.pictures[0] for thing in objects}
    assert {name: (p.cut, p.masked) for name, p in pictures.items()} == {
        "clear": (True, True),
        "masked": (False, True),
        "whole": (False, False),
    }
    assert pictures["masked"].image.size == (96, 48)
    covered = np.asarray(pictures["masked"].image.getchannel("A")).mean() / 255
    assert covered == pytest.approx(np.pi / 8, rel=0.1)  # a disc of radius 0.5**0.5 in a square of side 2
    assert pictures["whole"].cutout.size == (60, 40)
    assert max(pictures["clear"].cutout.size) < 40
    assert sorted(read_pictures(tmp_path)) == ["clear", "masked", "whole"]


def test_recordings_of_phones_are_read(tmp_path: Path) -> None:
    paint(tmp_path / "door.jpg")
    with av.open(str(tmp_path / "door.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples = tone(1.0).numpy()
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    objects, problems = read_objects(tmp_path)
    assert problems == []
    (recording,) = objects[0].recordings
    spectrum = torch.fft.rfft(recording).abs()
    assert float(spectrum.argmax()) * 16_000 / len(recording) == pytest.approx(440, abs=3)


def test_every_bad_file_gets_one_sentence_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("good", "silent", "short", "broken", "text", "hidden"):
        paint(tmp_path / f"{name}.png")
        sing(tmp_path / f"{name}.wav")
    sing(tmp_path / "silent.wav", torch.zeros(16_000))
    sing(tmp_path / "short.wav", tone(0.02))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "text.wav").write_text("no sound")
    paint(tmp_path / "hidden.png", (1, 2, 3, 0))
    paint(tmp_path / "alone.png")
    sing(tmp_path / "unseen.wav")
    (tmp_path / "phone.heic").write_bytes(b"?")
    disc().save(tmp_path / "nobody_mask.png")
    Image.new("L", (60, 40), 0).save(tmp_path / "good_mask.png")
    objects, problems = read_objects(tmp_path)
    assert [thing.name for thing in objects] == ["good"]
    assert not objects[0].pictures[0].masked
    begin = [
        "alone has no recording",
        "broken has no image",
        "broken.png cannot be read as an image",
        "good_mask.png selects nothing",
        "hidden has no image",
        "hidden.png is transparent all over",
        "nobody_mask.png is a mask, but there is no image nobody",
        "phone.heic is of a kind that is not read",
        "short has no recording",
        "short.wav has 0.02 s of sound",
        "silent has no recording",
        "silent.wav is silent",
        "text has no recording",
        "text.wav cannot be read as audio",
        "unseen has no image",
    ]
    assert len(problems) == len(begin)
    for problem, expected in zip(sorted(problems), begin, strict=True):
        assert problem.startswith(expected)
        assert problem.endswith(".")
        assert "\n" not in problem
    with pytest.raises(ValueError, match="is not a folder"):
        read_objects(tmp_path / "nowhere")


@pytest.fixture
def own(stamps_data: ObjectSet) -> list[TaughtObject]:
    """Three known objects (drawn and sung by the tests) after two new ones: a photograph and a cut-out."""
    photograph = Image.new("RGBA", (80, 60), (10, 20, 240, 255))
    green = Image.new("RGBA", (40, 40), (0, 250, 0, 255))
    green.putalpha(disc(40))
    return [
        TaughtObject(
            "sea", ("the sea",), (Picture(photograph, cut=False, masked=False),), (tone(0.5, 3000),), "CC0-1.0"
        ),
        TaughtObject(
            "leaf", ("a leaf",), (Picture(green, cut=True, masked=True),), (tone(0.5, 110), tone(3, 120)), "private"
        ),
        *known.as_objects(stamps_data),
    ]


def test_samples_are_of_new_and_known_objects_by_turns(own: list[TaughtObject]) -> None:
    source = ObjectSceneSource(own[:2], own[2:], count=48, seconds=1.28, size=96)
    assert [source.object_of(i) for i in range(8)] == [0, 2, 1, 3, 0, 4, 1, 2]
    assert [ObjectSceneSource(own[:2], [], count=4, seconds=1, size=96).object_of(i) for i in range(4)] == [0, 1, 0, 1]
    samples = [source.make(i) for i in range(48)]
    assert all(
        sample.labels is not None and sample.labels[0] == source.object_of(i) for i, sample in enumerate(samples)
    )
    alone = [sample for sample in samples if sample.sounding == (0,)]
    assert 0.75 < len(alone) / 48 < 1
    for sample in alone:
        assert sample.waveform is not None
        assert len(sample.waveform) == 20480
        assert any(own[sample.labels[0]].captions[0] in caption for caption in sample.captions)
        loudest = np.abs(np.fft.rfft(sample.waveform)).argmax() * 16_000 / 20480
        pitches = [3000.0, 110.0, *(TONES[thing.name] for thing in own[2:])]
        assert min(range(5), key=lambda i: abs(pitches[i] - loudest)) == sample.labels[0]
    leaves = [sample for sample in samples if sample.labels[0] == 1]
    for sample in leaves:  # the mask lies on what is green
        picture, mask = sample.images[0].astype(float), sample.masks[0] > 200
        assert (picture[mask][:, 1] > picture[mask][:, 0] + 60).mean() > 0.9
    again = source.make(7)
    np.testing.assert_array_equal(again.images[0], samples[7].images[0])
    np.testing.assert_array_equal(again.waveform, samples[7].waveform)


def test_photographs_without_an_outline_are_also_shown_whole(own: list[TaughtObject]) -> None:
    source = ObjectSceneSource(own[:1], own[2:], count=60, seconds=1.28, size=96)
    masks = [source.make(i).masks[0] for i in range(0, 60, 2)]
    whole = sum((mask == 255).all() for mask in masks)
    assert 5 < whole < 25
    assert all(mask.max() == 255 for mask in masks)


def test_a_part_of_a_photograph_keeps_its_object() -> None:
    image = Image.new("RGBA", (100, 80), (9, 9, 9, 255))
    outline = Image.new("L", (100, 80), 0)
    outline.paste(255, (60, 50, 90, 70))
    image.paste((250, 0, 0), (60, 50, 90, 70))
    image.putalpha(outline)
    for seed in range(10):
        scene = whole_scene(Picture(image, cut=False, masked=True), 3, 64, np.random.default_rng(seed))
        inside = scene.image[scene.masks[0] > 250]
        assert len(inside) > 0.05 * 64 * 64  # 600 of 8000 pixels, or more of a smaller part
        assert (inside[:, 0] > inside[:, 1] + 80).all()
        assert scene.labels == (3,)


def test_settings_name_the_material(own: list[TaughtObject]) -> None:
    def inputs(objects: list[TaughtObject]) -> object:
        return ObjectSceneSource(objects[:2], objects[2:], count=4, seconds=1, size=96).settings()["inputs"]

    louder = dataclasses.replace(own[0], recordings=(2 * own[0].recordings[0],))
    assert inputs(own) == inputs(list(own))
    assert inputs([louder, *own[1:]]) != inputs(own)


def test_the_ear_knows_recordings_apart(stamps_data: ObjectSet) -> None:
    objects = known.as_objects(stamps_data)
    ear = MelRetrieval(objects, 1.0)
    assert ear.recordings() == 1.0
    for number, thing in enumerate(objects):
        sound = fill(thing.recordings[0], 16_000, np.random.default_rng(7))[None]
        assert ear.ranks(0.1 * sound, number) == [1]  # whatever its level
        assert sorted(ear.ranks(sound, other)[0] for other in range(3)) == [1, 2, 3]
    assert len(Cast(objects)) == 3
