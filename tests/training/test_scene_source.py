"""Scenes of a set of objects as shards."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.audio.files import write_audio
from training.data import scenes
from training.data.object_set import ObjectSet
from training.data.prepare import app
from training.data.scene_source import SceneSource
from training.data.shard_format import ShardIndex
from training.data.shards import Shards


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three shapes with three tones, as `python -m training starter stamps` writes it."""
    folder = tmp_path_factory.mktemp("stamps")
    rows = []
    for label, (name, tone) in enumerate({"disc": 220.0, "square": 660.0, "bar": 1760.0}.items()):
        cutout = np.full((40, 20 + 20 * label, 4), (200, 40, 40, 255), np.uint8)
        cutout[:5, :, 3] = 0
        Image.fromarray(cutout).save(folder / f"{name}.png")
        write_audio(folder / f"{name}.wav", torch.sin(2 * math.pi * tone * torch.arange(8000) / 16_000), 16_000)
        rows.append(
            {"name": name, "label": label, "caption": f"a {name}", "image": f"{name}.png", "mask": f"{name}.png"}
            | {"audio": f"{name}.wav", "seconds": 0.5, "source": f"test: {name}", "licence": "GPL-2.0-or-later"}
        )
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


def test_scenes_become_shards(stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ["stamps", "--data", str(stamps), "--out", str(out), "--scenes", "6", "--split", "held-out"]
    # Scenes of three objects at most, as there are no more; and backgrounds that need no other package.
    monkeypatch.setattr(scenes.np.random, "default_rng", _few(np.random.default_rng))
    monkeypatch.setattr(scenes, "background_photographs", lambda: [Image.new("RGB", (64, 64), (90, 90, 90))])
    result = CliRunner().invoke(app, [*command, "--seconds", "1", "--size", "64", "--workers", "0"])
    data = ObjectSet(stamps)
    expected = []
    for index in range(6):
        rng = scenes.scene_rng("held-out", index)
        scene = scenes.make_scene(data, rng, size=(64, 64))
        captions = [scenes.scene_caption(data, scene, rng) for _ in range(2)]
        expected.append((scene, captions, scenes.scene_sound(data, scene, 16_000, rng)))
    assert result.exit_code == 0, result.output
    shards = Shards(out, ("captions", "labels", "sounding", "seconds", "waveform", "images", "masks"))
    assert len(shards) == 6
    for number, (scene, captions, sound) in enumerate(expected):
        sample = shards[number]
        assert sample["captions"] == captions
        assert (tuple(sample["labels"]), tuple(sample["sounding"])) == (scene.labels, scene.sounding)
        assert np.array_equal(sample["masks"], scene.masks)
        torch.testing.assert_close(sample["waveform"], sound, atol=1 / 32768, rtol=0)
        Image.fromarray(scene.image).save(tmp_path / "scene.jpg", quality=95)
        assert np.array_equal(sample["images"], np.asarray(Image.open(tmp_path / "scene.jpg"))[None])
    assert ShardIndex.read(out).licences == {"GPL-2.0-or-later": 6}


def _few(make: Any) -> Any:
    """Generators that never draw four objects."""

    class Few:
        def __init__(self, seed: Any):
            self._rng = make(seed)

        def choice(self, values: Any, *args: Any, p: Any = None, **kwargs: Any) -> Any:
            if values == [1, 2, 3, 4]:
                values, p = [1, 2, 3], [0.4, 0.3, 0.3]
            return self._rng.choice(values, *args, p=p, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rng, name)

    return Few


def test_scenes_are_named_by_all_files_of_their_objects(stamps: Path, tmp_path: Path) -> None:
    def inputs(folder: Path) -> str:
        return str(SceneSource(folder, scenes=1, split="train", seconds=1, size=64, captions=1).settings()["inputs"])

    same, image, sound = (Path(shutil.copytree(stamps, tmp_path / name)) for name in ("same", "image", "sound"))
    Image.new("RGBA", (40, 20), (0, 0, 200, 255)).save(image / "disc.png")
    write_audio(sound / "bar.wav", torch.zeros(8000), 16_000)
    assert inputs(same) == inputs(stamps)
    assert len({inputs(folder) for folder in (stamps, image, sound)}) == 3


def test_scenes_need_stamps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is missing; make it with"):
        SceneSource(tmp_path, scenes=1, split="train", seconds=1, size=64, captions=1)
