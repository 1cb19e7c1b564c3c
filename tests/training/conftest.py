"""A small data set of stamps (three shapes, each with a tone of its own), features of scenes of them, a Ray cluster."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import sounding
from sounding.audio.files import write_audio
from training.data.features import FeatureSource
from training.data.object_set import ObjectEntry, ObjectSet
from training.data.scene_source import SceneSource
from training.data.shard_writer import make_shards
from training.starter import stamps

from .video_material import ROWS, write_video

TONES = {"disc": 220.0, "square": 660.0, "bar": 1760.0}  # Hz


def draw_stamp(name: str) -> Image.Image:
    picture = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    shapes = {"disc": pen.ellipse, "square": pen.rectangle, "bar": pen.rectangle}
    boxes = {"disc": (10, 5, 60, 55), "square": (20, 10, 60, 50), "bar": (5, 25, 75, 35)}
    shapes[name](boxes[name], fill=(200, 40, 40, 255))
    return picture


@pytest.fixture(scope="session")
def stamps_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the unpacked Debian package."""
    root = tmp_path_factory.mktemp("package")
    folder = root / "usr/share/tuxpaint/stamps/animals/shapes"
    folder.mkdir(parents=True)
    times = torch.arange(8000) / 16000
    for name, tone in TONES.items():
        draw_stamp(name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.\nes=Una forma.\n", encoding="utf-8")
        write_audio(folder / f"{name}.ogg", torch.sin(2 * math.pi * tone * times), 16000)
    draw_stamp("disc").save(folder / "silent.png")
    (folder / "silent.txt").write_text("A silent thing.\n")
    write_audio(folder / "silent.ogg", torch.zeros(8000), 16000)
    draw_stamp("disc").save(folder / "ghost.png")  # a name from the list of drawings
    write_audio(folder / "ghost.ogg", torch.ones(8000), 16000)
    return root


@pytest.fixture(scope="session")
def stamps_folder(stamps_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stamps")
    stamps.build(stamps_package, out)
    return out


@pytest.fixture(scope="session")
def stamps_data(stamps_folder: Path) -> ObjectSet:
    return ObjectSet(stamps_folder)


SHORE = {"frog": 2, "owl": 1, "sea": 1, "lake": 1, "bell": 0}  # images; the frog and the bell have two recordings


@pytest.fixture(scope="session")
def shore_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kinds as `starter data` writes them: a red and a green frog, two that fill an image, and one of a class alone."""
    folder = tmp_path_factory.mktemp("shore")
    colours = {
        "frog": (220, 0, 0),
        "frog-1": (0, 220, 0),
        "owl": (0, 0, 220),
        "sea": (0, 160, 160),
        "lake": (90, 90, 0),
    }
    for name, colour in colours.items():
        picture = Image.new("RGBA", (60, 60), (*colour, 255 if name in ("sea", "lake") else 0))
        if name not in ("sea", "lake"):
            ImageDraw.Draw(picture).ellipse((0, 0, 59, 59), fill=(*colour, 255))
        picture.save(folder / f"{name}.png")
    Image.new("RGB", (64, 64), (128, 128, 128)).save(folder / "wall.jpg")
    draw_stamp("disc").save(folder / "silent.png")
    rows = []
    for label, (name, images) in enumerate(SHORE.items()):
        files = [f"{name}-{take}.wav" for take in range(2 if name in ("frog", "bell") else 1)]
        for take, file in enumerate(files):
            tone = 2 * math.pi * 200 * (1 + 2 * label + take) * torch.arange(8000) / 16_000
            write_audio(folder / file, 0.5 * torch.sin(tone), 16_000)
        shown = (f"{name}.png" if images else "", "", files[0])
        more = {
            "images": ("frog-1.png",) if images > 1 else (),
            "recordings": tuple(files[1:]),
            "whole": name in ("sea", "lake"),
            "classes": (7,) if name == "bell" else (),
        }
        rows.append(asdict(ObjectEntry(name, label, f"a {name}", *shown, 0.5, "drawn", "CC0-1.0", **more)))  # type: ignore[arg-type]
    found = {"objects": rows, "silent": ["silent.png"], "backgrounds": ["wall.jpg"]}
    (folder / "manifest.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="session")
def shore(shore_folder: Path) -> ObjectSet:
    return ObjectSet(shore_folder)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and cut, good and bad ones."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    write_video(folder / "whole-mp4.mp4")
    write_video(folder / "more" / "-whole_webm.webm")
    write_video(folder / "cut_2.mkv", 3)  # its clip begins at second 2 of a video that is not here
    write_video(folder / "silent.mp4", level=0.0)
    write_video(folder / "mute.mp4", 3, sound=False)
    write_video(folder / "blind.mp4", 3, pictures=False)
    (folder / "broken.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (folder / "whole-mp4.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def audiocaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lists") / "test.csv"
    lines = [f'{i},{video},{start},"{caption}"' for i, (video, start, caption) in enumerate(ROWS)]
    file.write_text("audiocap_id,youtube_id,start_time,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def features(stamps_folder: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of a few scenes, as the tiny model sees and hears them."""
    out = tmp_path_factory.mktemp("shards")
    scenes = SceneSource(stamps_folder, scenes=6, split="train", seconds=1.28, size=160, captions=2)
    make_shards(scenes, out / "scenes", shard_size=4)
    model = sounding.load(tiny_checkpoint, device="cpu")
    make_shards(FeatureSource(out / "scenes", model), out / "features", shard_size=4)
    return out / "features"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Ray cluster, in processes of its own, with two CPUs and a GPU, which is declared and not there."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):  # a dozen interpreters would each compile all
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else runs here goes first
        nodes = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "num_gpus": 1,
                "object_store_memory": 80 * 2**20,
                "include_dashboard": False,
                "dashboard_port": None,
            },
        )
        yield nodes.address
        nodes.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As workers of one CPU have: other numbers of threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
