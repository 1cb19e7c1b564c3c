"""A small data set of stamps: three shapes, each with a tone of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sounding.audio.files import write_audio
from training.data.object_set import ObjectSet
from training.starter import stamps

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
