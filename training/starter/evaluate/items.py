"""Writes items to evaluate any system on: scenes of objects with a selected one each, and its recording.

    python -m training starter evaluate items --data data/stamps --out ITEMS

The folder is described in `training.evaluate.items`. All scenes are drawn from one random stream, which the rest of
the starter's evaluation has as well, so that figures of the default stream are development figures. Kinds of items:

- "object": scenes of one to four objects, each object selected in `per_object` of them
- "pair": scenes of two objects, one of them selected
- "background": scenes of one to four objects, none of which fills the image, all but the objects selected; nothing
  in it has a sound

The reference is a cut of one of the selected object's recordings, as `real_crops` makes it. An item depends on its
number, the stream, and the objects, not on how many other items there are, but for the others in scenes of kind
"object", which change with `per_object`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image

from sounding.audio.files import write_audio
from sounding.utils.fields import Checked, Range

from ...data.object_set import ObjectSet, content_digest
from ...data.scenes import Scene, random_labels
from ...data.shard_format import SAMPLE_RATE
from ...evaluate.items import ItemEntry, ItemObject, write_folder
from .classifier import real_crops
from .sounds import HELD_OUT, asked_scene, check_stream, held_out_pairs, held_out_scenes

BACKGROUNDS = 200_000  # the first background's number; pairs begin at 100,000


@dataclass(frozen=True)
class ItemsSettings(Checked):
    """Which scenes, and how many.

    Raises:
        ValueError: a number out of its range, no item at all, or the random stream of training.
    """

    stream: Annotated[int, Range(0, 2**31)] = HELD_OUT
    per_object: Annotated[int, Range(0, 100)] = 1
    pairs: Annotated[int, Range(0, 100_000)] = 80
    backgrounds: Annotated[int, Range(0, 100_000)] = 40
    seconds: Annotated[float, Range(0.5, 60)] = 2.56

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stream(self.stream)
        if not self.per_object + self.pairs + self.backgrounds:
            raise ValueError("No items are asked for; give --per-object, --pairs or --backgrounds more than 0.")


def write_items(data: Path, out: Path, settings: ItemsSettings) -> Path:
    """Write a folder of items in one step; one that is there with the same settings stays as it is.

    Args:
        data: folder of an `ObjectSet`.
        out: the new folder.
        settings: which scenes.

    Raises:
        ValueError: too few objects for pairs, none that leaves a background, or `out` holds something else.
    """
    source: dict[str, Any] = {"objects": content_digest(data), **asdict(settings)}

    def fill(folder: Path) -> list[ItemEntry]:
        objects = ObjectSet(data)
        if settings.backgrounds and len(objects.whole) == len(objects):
            raise ValueError(f"All objects of {data} fill the image, so there is no background; give --backgrounds 0.")
        entries = []
        for number, entry, scene in _drawn(objects, settings):
            _write_item(folder, objects, settings, number, entry, scene)
            entries.append(entry)
        (folder / "labels.csv").write_bytes(_labels(entries))
        return entries

    return write_folder(out, source, fill)


def _drawn(objects: ObjectSet, settings: ItemsSettings) -> Iterator[tuple[int, ItemEntry, Scene]]:
    """Number in the stream, description and scene of each item."""
    stream, whole = settings.stream, objects.whole
    things = [label for label in range(len(objects)) if label not in whole]
    wanted: list[tuple[str, int, tuple[int, ...] | None]] = []
    wanted += [("object", *chosen) for chosen in held_out_scenes(objects, settings.per_object, stream)]
    wanted += [("pair", *chosen) for chosen in held_out_pairs(objects, settings.pairs, stream)]
    wanted += [("background", BACKGROUNDS + n, None) for n in range(settings.backgrounds)]
    first = {"object": 0, "pair": 100_000, "background": BACKGROUNDS}
    for kind, number, labels in wanted:
        rng = np.random.default_rng([stream, number])
        chosen = labels or tuple(things[place] for place in random_labels(len(things), rng))
        scene = asked_scene(objects, rng, chosen)
        entries = [objects.entries[label] for label in scene.labels]
        shown = tuple(
            ItemObject(entry.name, entry.caption, _box(mask)) for entry, mask in zip(entries, scene.masks, strict=True)
        )
        caption = "" if kind == "background" else shown[0].caption
        yield number, ItemEntry(f"{kind}-{number - first[kind]:05}", kind, caption, shown), scene  # type: ignore[arg-type]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """What encloses the visible part of a mask [H, W]."""
    left, top, right, bottom = Image.fromarray(mask).getbbox() or (0, 0, mask.shape[1], mask.shape[0])
    return left, top, right, bottom


def _write_item(
    folder: Path, objects: ObjectSet, settings: ItemsSettings, number: int, entry: ItemEntry, scene: Scene
) -> None:
    """Image, mask and reference of one item."""
    background = entry.kind == "background"
    mask = 255 - scene.masks.max(axis=0) if background else scene.masks[0]
    Image.fromarray(scene.image).save(folder / "images" / f"{entry.name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{entry.name}.png")
    if not background:
        rng = np.random.default_rng([99, number, settings.stream])
        samples = round(settings.seconds * SAMPLE_RATE)
        (sound,) = real_crops(objects, [scene.labels[0]], samples, rng, strong=False)
        write_audio(folder / "reference" / f"{entry.name}.wav", sound, SAMPLE_RATE)


def _labels(entries: list[ItemEntry]) -> bytes:
    """Content of labels.csv."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "labels", "others"])
    for entry in entries:
        rows.writerow([entry.name, *(";".join(one.name for one in part) for part in (entry.selected, entry.others))])
    return text.getvalue().encode()
