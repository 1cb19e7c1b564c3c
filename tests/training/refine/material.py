"""A folder of small videos, a list of them in AudioSet's form with an ontology of the same form, and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.refine.settings import RefineSettings, read_settings

from ..video_material import write_video

ONTOLOGY = [  # the form is AudioSet's, the classes are few
    {"id": "/m/sounds", "name": "Sounds", "child_ids": ["/m/animal", "/m/music", "/m/weather"]},
    {"id": "/m/animal", "name": "Animal", "child_ids": ["/m/dog", "/m/cat"]},
    {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"]},
    {"id": "/m/bark", "name": "Bark, yap", "child_ids": []},
    {"id": "/m/cat", "name": "Cat", "child_ids": []},
    {"id": "/m/music", "name": "Music", "child_ids": ["/m/guitar", "/m/bell"]},
    {"id": "/m/guitar", "name": "Guitar", "child_ids": []},
    {"id": "/m/bell", "name": "Bell", "child_ids": ["/m/chime"]},
    {"id": "/m/chime", "name": "Chime", "child_ids": []},
    {"id": "/m/weather", "name": "Weather", "child_ids": ["/m/rain"]},
    {"id": "/m/rain", "name": "Rain", "child_ids": []},
]
CLASSES = [entry["id"] for entry in ONTOLOGY]
# Video, seconds in the list, labels; the videos have six seconds.
ROWS = [
    ("dog0", 0, 2, "/m/bark"),
    ("dog0", 2, 4, "/m/bark"),
    ("dog1", 0, 2, "/m/dog"),
    ("rain0", 1, 3, "/m/rain"),
    ("rain1", 0, 2, "/m/rain"),
    ("song0", 0, 2, "/m/guitar"),
    ("chime0", 0, 2, "/m/chime"),
    ("late0", 5, 7, "/m/cat"),
    ("mute0", 0, 2, "/m/cat"),
    ("silent0", 0, 2, "/m/cat"),
    ("broken0", 0, 2, "/m/cat"),
    ("gone0", 0, 2, "/m/cat"),
    ("bench0", 0, 2, "/m/rain"),
]
KEPT = ["dog0_0", "dog0_2", "dog1_0", "rain0_1", "rain1_0", "chime0_0"]


def write_material(folder: Path) -> None:
    """`ontology.json`, `classes.csv`, `list.csv`, `benchmark.txt` and `videos/`."""
    (folder / "videos").mkdir(parents=True)
    (folder / "ontology.json").write_text(json.dumps(ONTOLOGY))
    names = {entry["id"]: entry["name"] for entry in ONTOLOGY}
    lines = [f'{number},{code},"{names[code]}"' for number, code in enumerate(CLASSES)]
    (folder / "classes.csv").write_text("\n".join(["index,mid,display_name", *lines]))
    lines = [f'{video}, {start}.000, {end}.000, "{code}"' for video, start, end, code in ROWS]
    (folder / "list.csv").write_text("\n".join(["# YTID, start_seconds, end_seconds, positive_labels", *lines]))
    (folder / "benchmark.txt").write_text("bench0\n")
    for video in ("dog0", "dog1", "rain0", "rain1", "song0", "chime0", "late0", "bench0"):
        write_video(folder / "videos" / f"{video}.mp4")
    write_video(folder / "videos" / "mute0.mp4", 3, sound=False)
    write_video(folder / "videos" / "silent0.mp4", 3, level=0.0)
    (folder / "videos" / "broken0.mp4").write_bytes(b"no video" * 100)


def settings_text(material: Path, out: Path) -> str:
    """A settings file for the material, with the light steps alone."""
    return f"""
out: {out}
ontology: {material}/ontology.json
exclude: [{material}/benchmark.txt]
seconds: 2.0
lists: [{{form: audioset, csv: {material}/list.csv, classes: {material}/classes.csv, videos: {material}/videos,
    licence: CC-BY-4.0}}]
engine: {{kind: local, cpus: 2, object_store_mb: 80, block: 4}}
labels: {{drop: [/m/music], spare: [/m/bell]}}
clips: {{resources: {{batch: 2}}}}
captions: {{frames: none, resources: {{batch: 2}}}}
rephrase: {{resources: {{batch: 2}}}}
split: {{test_hours: 0.002, count: 2}}
shards: {{frames: 2, size: 32, shard_size: 2}}
"""


def write_settings(material: Path, out: Path) -> Path:
    file = out.with_suffix(".yaml")
    file.write_text(settings_text(material, out))
    return file


def settings_of(material: Path, out: Path, **changes: Any) -> RefineSettings:
    """Settings for the material; changes by `key__key=value`."""
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return read_settings(write_settings(material, out), overrides)
