"""Image and audio files, recipes, lists of clips and shards."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from sounding.audio.files import read_audio
from sounding.images.files import read_image, read_mask
from training.data.clip_lists import read_clips, read_ids
from training.data.shard_format import Sample
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.source import Source
from training.recipe import Recipe, read_recipe

from .mutations import damaged, hostile_value, mutated
from .sandbox import Case, try_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes, and how they are watched")
RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").rglob("*.yaml"))


def pictures() -> dict[str, bytes]:
    """Small images of many formats and modes."""
    made = {}
    ramp = np.linspace(0, 255, 24 * 20).reshape(20, 24).astype(np.uint8)
    whole = Image.fromarray(np.stack([ramp, ramp[::-1], ramp], axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = "png RGB,png P,png 1,png I;16,png LA,jpg RGB,webp RGBA,gif P,bmp RGB,tif RGB,tif F,ppm RGB,tga RGB"
    kinds += ",ico RGBA,eps RGB,jp2 RGB,jpg L,tif I;16,webp RGB"
    for ending, mode in (kind.split() for kind in kinds.split(",")):
        options: dict[str, Any] = {"exif": exif} if ending in ("jpg", "webp", "png") else {}
        file = io.BytesIO()
        picture = Image.fromarray(ramp.astype(np.uint16) * 256) if mode == "I;16" else whole.convert(mode)
        picture.save(file, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(ending, ending.upper()), **options)
        made[f"{len(made)}.{ending}"] = file.getvalue()
    return made


def test_pictures(rounds: int, folder: Path) -> None:
    good = pictures()

    def make(draw: random.Random, folder: Path) -> Case:
        name = draw.choice(list(good))
        path = folder / (name if draw.random() < 0.8 else draw.choice(("x.png", "x.jpg", "x.tif", "x.webp", "x")))
        path.write_bytes(damaged(draw, good[name]))
        return lambda: draw.choice((read_image, read_mask))(path)

    try_inputs("images", 3 * rounds, folder, make)


def test_sounds(rounds: int, folder: Path) -> None:
    good = {}
    noise = 0.1 * np.random.default_rng(0).standard_normal((4000, 2))
    kinds = "wav PCM_16,wav FLOAT,wav ULAW,flac PCM_24,ogg VORBIS,aiff PCM_16,mp3 MPEG_LAYER_III,w64 DOUBLE,caf PCM_16"
    for ending, subtype in (kind.split() for kind in kinds.split(",")):
        file = io.BytesIO()
        soundfile.write(file, noise, 22_050, subtype=subtype, format=ending.upper())
        good[f"{subtype}.{ending}"] = file.getvalue()

    def make(draw: random.Random, folder: Path) -> Case:
        name = draw.choice(list(good))
        path = folder / (name if draw.random() < 0.9 else "x.wav")
        path.write_bytes(damaged(draw, good[name]))
        return lambda: read_audio(path, 16_000)

    try_inputs("sounds", 3 * rounds, folder, make)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


def test_recipes(rounds: int, folder: Path) -> None:
    good = [yaml.safe_load(path.read_text()) for path in RECIPES]
    texts = [path.read_text() for path in RECIPES]
    for path in RECIPES:  # what they extend
        (folder / path.name).write_text(path.read_text())
    broken = [BOMB, "<<: *a", "- 1", "x: !!python/object/apply:os.system [ls]", "? [a, b]\n: c", "a: " + "9" * 5000,
              "a: " + "1_" * 5000 + "x", "[" * 20_000, "a: " + "{b: " * 2000, "\t", "\0", "extends: /dev/zero",
              "extends: bad.yaml", "extends: [1]", "extends: ../../../etc/passwd", "&a [*a]", "name: \ud83d",
              "---\n---\n",              "a: &x {<<: *x}", "loop: {steps: .inf}", "loop: {accumulate: 0}", 
              "data: {shards: []}"]  # fmt: skip

    def make(draw: random.Random, folder: Path) -> Case:
        bad = folder / "bad.yaml"
        overrides = []
        how = draw.random()
        if how < 0.6:
            text = yaml.safe_dump(_plain(mutated(draw, draw.choice(good))))
        elif how < 0.8:
            text = draw.choice(texts) + "\n" + draw.choice(broken)
        else:
            text = damaged(draw, draw.choice(texts).encode()).decode("latin-1")
        if draw.random() < 0.3:
            key = draw.choice(
                ("loop.lr", "name", "out", "start.all", "model.unet", "loop.accumulate", "x.y", "data.shards")
            )
            overrides = [f"{key}={hostile_value(draw)}"]
        bad.write_text(text, encoding="utf-8", errors="surrogatepass")
        return lambda: read_recipe(bad, Recipe, overrides)

    try_inputs("recipes", rounds, folder, make)


def _plain(value: Any) -> Any:
    """Values that YAML can represent: integers of any length, no surrogates."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def test_lists(rounds: int, folder: Path) -> None:
    ids = [f"abcdefgh{i:03d}" for i in range(8)]
    good = [
        "audiocap_id,youtube_id,start_time,caption\n"
        + "".join(f'{i},{v},{i * 10},"a dog, {i}"\n' for i, v in enumerate(ids)),
        "# x\n# YTID, start_seconds, end_seconds, positive_labels\n"
        + "".join(f'{v}, {i}.000, {i + 10}.000, "/m/0,/m/1"\n' for i, v in enumerate(ids)),
        "".join(f"{v},{i},dog barking,{'train' if i % 2 else 'test'}\n" for i, v in enumerate(ids)),
    ]
    classes = folder / "classes.csv"
    classes.write_text('index,mid,display_name\n0,/m/0,"Dog"\n1,/m/1,Cat\n')

    def make(draw: random.Random, folder: Path) -> Case:
        bad = folder / "bad.csv"
        text = draw.choice(good)
        if draw.random() < 0.5:
            rows = text.splitlines()
            row = draw.randrange(len(rows))
            fields = rows[row].split(",")
            fields[draw.randrange(len(fields))] = str(hostile_value(draw)).encode(errors="replace").decode()
            rows[row] = ",".join(fields)
            text = "\n".join(rows)
        data = text.encode() if draw.random() < 0.5 else damaged(draw, text.encode())
        bad.write_bytes(data)
        if draw.random() < 0.3:
            return lambda: read_ids(bad)
        return lambda: read_clips(bad, draw.choice((None, "audiocaps", "audioset", "vggsound")), classes)

    try_inputs("lists", 3 * rounds, folder, make)


class Drawn(Source):
    """Three samples."""

    kind = "raw"
    model = None

    def __len__(self) -> int:
        return 3

    def settings(self) -> dict[str, Any]:
        return {"from": "the test"}

    def name(self, position: int) -> str:
        return f"{position}"

    def make(self, position: int) -> Sample:
        rng = np.random.default_rng(position)
        return Sample(
            id=f"{position}",
            captions=("a dog",),
            licence="CC0",
            source="the test",
            seconds=0.25,
            waveform=rng.standard_normal(4000, dtype=np.float32) * 0.1,
            images=rng.integers(0, 256, (2, 20, 24, 3), dtype=np.uint8),
            masks=tuple(rng.integers(0, 256, (2, 20, 24), dtype=np.uint8)),
        )


def test_shards(rounds: int, folder: Path) -> None:
    made = folder / "made"
    make_shards(Drawn(), made)
    contents = {path.name: path.read_bytes() for path in made.iterdir() if path.is_file()}
    (index,) = (name for name in contents if name.endswith(".json") and b"shards" in contents[name])

    def make(draw: random.Random, folder: Path) -> Case:
        for name, data in contents.items():
            (made / name).write_bytes(data)
        if draw.random() < 0.4:
            text = json.dumps(mutated(draw, json.loads(contents[index])))
            (made / index).write_text(text)
        else:
            name = draw.choice([name for name in contents if name.endswith(".tar")])
            (made / name).write_bytes(damaged(draw, contents[name]))

        def read() -> None:
            shards = Shards(made, ("id", "captions", "waveform", "images"), ("masks",))
            for number in range(min(len(shards), 5)):
                sample = shards[number]
                assert torch.is_tensor(sample["waveform"])

        return read

    try_inputs("shards", rounds, folder, make)
