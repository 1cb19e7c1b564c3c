"""Cut-outs and scenes on a data set drawn and sung by the tests: three shapes, three tones."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from training.__main__ import app
from training.data import scenes
from training.data.object_set import ObjectSet
from training.data.waveforms import fill, mix, trim
from training.starter import stamps
from training.starter.stamps import find_stamps

from .conftest import TONES


def test_manifest_has_what_a_reader_needs(stamps_data: ObjectSet) -> None:
    assert [stamp.name for stamp in stamps_data.entries] == ["bar", "disc", "square"]
    assert [stamp.label for stamp in stamps_data.entries] == [0, 1, 2]
    assert stamps_data.entries[1].caption == "a disc"
    assert all("GPL-2" in stamp.licence and "tuxpaint" in stamp.source for stamp in stamps_data.entries)


def test_missing_package_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install tuxpaint-stamps-default"):
        find_stamps(tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m training starter stamps"):
        ObjectSet(tmp_path)


@pytest.mark.parametrize("command", ["cutouts", "rehearsal-items", "stamps"])
def test_commands_without_their_data_end_in_a_sentence(command: str, tmp_path: Path) -> None:
    given = "--data" if command == "rehearsal-items" else "--source"
    arguments = ["starter", command, given, str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert "none" in ended.stderr


def test_trim_keeps_the_sound_and_drops_the_silence() -> None:
    sound = torch.cat([torch.zeros(5000), torch.ones(1000), torch.zeros(9000)])
    assert len(trim(sound)) == 1000 + 2 * 320


def test_short_recordings_repeat_and_long_ones_are_cut() -> None:
    rng = np.random.default_rng(0)
    clip = fill(torch.ones(1000), 40_000, rng)
    starts = ((clip[1:] == 1) & (clip[:-1] == 0)).sum()
    assert len(clip) == 40_000
    assert starts >= 3
    long = torch.arange(50_000.0)
    cut = fill(long, 10_000, rng)
    assert torch.equal(cut, long[int(cut[0]) : int(cut[0]) + 10_000])


def test_mix_brings_sounds_to_the_gains() -> None:
    times = torch.arange(16_000) / 16_000
    low, high = (torch.sin(2 * math.pi * f * times) for f in (101.0, 1003.0))
    spectrum = torch.fft.rfft(mix([0.01 * low, high], [0.0, -6.0])).abs()
    assert float(20 * torch.log10(spectrum[1003] / spectrum[101])) == pytest.approx(-6.0, abs=0.05)


def test_scenes_follow_from_split_and_index(stamps_data: ObjectSet) -> None:
    one, again, other = (
        scenes.make_scene(stamps_data, scenes.scene_rng(split, 5), labels=(0, 1))
        for split in ("train", "train", "held-out")
    )
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)


def test_scene_masks_cover_their_objects_alone(stamps_data: ObjectSet) -> None:
    for index in range(6):
        scene = scenes.make_scene(stamps_data, scenes.scene_rng("train", index), labels=(1, 2))
        assert (scene.masks.astype(int).sum(axis=0) <= 257).all()  # what is hidden belongs to what hides it
        reds = [scene.image[mask > 250].astype(float).mean(axis=0) for mask in scene.masks]
        assert all(red[0] > red[1] + 30 for red in reds)  # both shapes are painted red
        caption = scenes.scene_caption(stamps_data, scene, np.random.default_rng(0))
        named = {name for name in ("disc", "square") if name in caption}
        assert named == {stamps_data.entries[scene.labels[i]].name for i in scene.sounding}


def test_scene_sound_is_the_mix_of_the_sounding_objects(stamps_data: ObjectSet) -> None:
    scene = scenes.make_scene(stamps_data, scenes.scene_rng("train", 3), labels=(0, 1, 2))
    scene = dataclasses.replace(scene, sounding=(0, 2), gains_db=(0.0, 0.0))
    spectrum = torch.fft.rfft(scenes.scene_sound(stamps_data, scene, 32_000, np.random.default_rng(1))).abs()
    tones = [TONES[stamps_data.entries[label].name] for label in (0, 1, 2)]
    bands = [float(spectrum[int(2 * tone) - 8 : int(2 * tone) + 8].max()) for tone in tones]
    assert bands[1] < 0.05 * min(bands[0], bands[2])


def test_manifest_is_json(stamps_data: ObjectSet, stamps_package: Path, tmp_path: Path) -> None:
    stamps.build(stamps_package, tmp_path)
    rows = json.loads((tmp_path / "manifest.json").read_text())
    assert {"name", "label", "caption", "image", "mask", "audio", "source", "licence", "seconds"} <= rows[0].keys()
    for row in rows:
        mask = np.asarray(Image.open(tmp_path / row["mask"]))
        assert mask.shape == np.asarray(Image.open(tmp_path / row["image"])).shape[:2]
