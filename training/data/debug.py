"""Made-up data for a first look: drawn shapes that sing, as videos with a list and as pairs, and a tiny model.

    python -m training debug-data --out data/debug

The paper's whole path runs on it in two minutes on a CPU (docs/training.md). Nothing is downloaded, and nothing worth
hearing comes of it.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from sounding.audio.files import write_audio
from sounding.config import (
    GroundingConfig,
    PatchConfig,
    QueryConfig,
    SoundingConfig,
    UnetConfig,
    VaeConfig,
    VocoderConfig,
)
from sounding.model import SoundingModel
from sounding.utils.files import replacing, write_atomic

from .shard_format import SAMPLE_RATE
from .video_scenes import write_video

SIDE = 96  # of images, in pixels
SECONDS = 1.28  # of sounds
VIDEO_SECONDS, VIDEO_RATE = 2, 4  # frames a second
LICENCE = "CC0-1.0 (made up by training/data/debug.py)"


@dataclass(frozen=True)
class Shape:
    """Something that can be drawn and sings one tone."""

    name: str
    code: str  # of its class, as AudioSet has them
    colour: tuple[int, int, int]
    tone: float  # Hz


SHAPES = (
    Shape("disc", "/m/disc", (200, 40, 40), 330.0),
    Shape("square", "/m/square", (40, 160, 60), 880.0),
    Shape("bar", "/m/bar", (50, 70, 200), 1760.0),
)


def debug_config() -> SoundingConfig:
    """The paper's parts, as small as they get."""
    return SoundingConfig(
        name="debug-base",
        train_seconds=SECONDS,
        patches=PatchConfig(
            tower="timm", model="test_efficientnet", width=16, grid=5, image_size=160, quick_gelu=False
        ),
        query=QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=4, context_length=16, tokenizer=""),
        grounding=GroundingConfig(key_width=16, mlp_width=16, condition_width=16),
        vae=VaeConfig(channels=(8, 8, 8), layers=1, norm_groups=4),
        unet=UnetConfig(channels=(16, 32), layers=1, head_width=16, norm_groups=8),
        vocoder=VocoderConfig(initial_channels=32, kernels=(3,), dilations=(1,)),
    )


def make_debug_data(out: Path, *, pairs: int = 12, videos: int = 6) -> None:
    """Write `base.safetensors`, `pairs/`, and `videos/` with `videos.csv` and `classes.csv` in AudioSet's form.

    Args:
        out: a folder; files of an earlier call are replaced by the same ones.
        pairs: images with masks, captions and sounds.
        videos: clips with sound.
    """
    torch.manual_seed(0)
    SoundingModel(debug_config()).save_pretrained(
        out / "base.safetensors",
        dtype=torch.float32,
        description="Random weights, to try the training with.",
        licence=LICENCE,
    )
    for number in range(pairs):
        shape, rng = SHAPES[number % len(SHAPES)], np.random.default_rng([1, number])
        picture, mask = draw(shape, rng)
        stem = out / "pairs" / f"{shape.name}_{number}"
        _write_picture(picture, stem.with_suffix(".png"))
        _write_picture(mask, stem.with_name(f"{stem.name}_mask.png"))
        write_audio(stem.with_suffix(".wav"), sing(shape, SECONDS, rng), SAMPLE_RATE)
        write_atomic(stem.with_suffix(".txt"), f"a {shape.name} that hums\n".encode())
    write_atomic(out / "pairs" / "licence.txt", LICENCE.encode())
    rows: list[list[str | int]] = []
    for number in range(videos):
        shape, rng = SHAPES[number % len(SHAPES)], np.random.default_rng([2, number])
        _write_video(shape, rng, out / "videos" / f"debug_{number:05d}.mp4")
        rows.append([f"debug_{number:05d}", 0, VIDEO_SECONDS, shape.code])
    lines = [f'{name}, {start}.000, {end}.000, "{code}"' for name, start, end, code in rows]
    write_atomic(
        out / "videos.csv", "\n".join(["# YTID, start_seconds, end_seconds, positive_labels", *lines, ""]).encode()
    )
    with replacing(out / "classes.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([i, shape.code, shape.name.title()] for i, shape in enumerate(SHAPES))


def draw(shape: Shape, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """An image of the shape somewhere, and its mask."""
    ground = rng.integers(150, 230, 3)
    picture = Image.new("RGB", (SIDE, SIDE), (int(ground[0]), int(ground[1]), int(ground[2])))
    mask = Image.new("L", (SIDE, SIDE), 0)
    width = int(rng.integers(30, 50))
    height = width // 3 if shape.name == "bar" else width
    x, y = int(rng.integers(4, SIDE - width - 4)), int(rng.integers(4, SIDE - height - 4))
    box = (x, y, x + width, y + height)
    for image, colour in ((picture, shape.colour), (mask, 255)):
        pen = ImageDraw.Draw(image)
        if shape.name == "disc":
            pen.ellipse(box, fill=colour)
        else:
            pen.rectangle(box, fill=colour)
    return picture, mask


def sing(shape: Shape, seconds: float, rng: np.random.Generator) -> torch.Tensor:
    """[samples] of the shape's tone, a little off, swelling."""
    times = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = shape.tone * float(rng.uniform(0.97, 1.03))
    return 0.3 * torch.sin(2 * math.pi * tone * times) * (1 - 0.5 * torch.cos(2 * math.pi * times))


def _write_picture(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def _write_video(shape: Shape, rng: np.random.Generator, path: Path) -> None:
    picture, _ = draw(shape, rng)
    waveform = sing(shape, VIDEO_SECONDS, rng).numpy()
    frames = np.repeat(np.asarray(picture)[None], VIDEO_SECONDS * VIDEO_RATE, axis=0)
    write_video(path, frames, VIDEO_RATE, waveform)
