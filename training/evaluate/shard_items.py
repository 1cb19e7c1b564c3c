"""Items of raw shards: a test set of clips as a folder on which every system can be measured (`items.py`).

Of each clip the middle frame is the image, all masks of what sounds together are the mask, and the clip's own sound is
the reference. The labels for ACC are those of AudioSet's lists, by the clips' ids (appendix C).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sounding.audio.files import write_audio
from sounding.utils.messages import printable

from ..data.clip_lists import read_classes, read_clips
from ..data.shard_folders import Folders
from ..data.shard_format import SAMPLE_RATE
from ..data.shards import Shards
from ..data.source import hash_json
from .items import ItemEntry, write_folder

LONGEST_CAPTION = 1000  # characters of an item's
OnStep = Callable[[int, int], None]


def write_shard_items(
    shards: Folders,
    out: Path,
    *,
    lists: Sequence[Path] = (),
    classes: Path | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Write a folder of items in one step; one that is there with the same settings stays as it is.

    Args:
        shards: folders of raw shards; those of `prepare masks` have masks.
        out: the new folder.
        lists: AudioSet's lists, which say the clips' labels; without them nothing does.
        classes: AudioSet's class_labels_indices.csv, for them.
        on_step: clips that are written, of how many.

    Raises:
        ValueError: no raw shards, a list that cannot be read, two clips of one name, or `out` holds something else.
    """
    read = Shards(shards, ("id", "captions", "waveform", "images"), optional=("masks", "sounding"))
    told = read.only("id", "seconds")
    described = [told[number] for number in range(len(read))]
    labels = labels_of(lists, classes, {one["id"] for one in described})
    source: dict[str, Any] = {
        "shards": hash_json((shard.name, shard.bytes, shard.offsets) for shard in read.index.shards),
        "made": hash_json(read.index.settings),
        "labels": hash_json(sorted(labels.items())),
        "seconds": round(max((float(one["seconds"]) for one in described), default=0.0), 2),
    }

    def fill(folder: Path) -> list[ItemEntry]:
        entries: dict[str, ItemEntry] = {}
        rows = []
        for number in range(len(read)):
            sample = read[number]
            entry = ItemEntry(file_name(sample["id"]), "object", " ".join(sample["captions"][:1])[:LONGEST_CAPTION])
            if entry.name.casefold() in entries:
                raise ValueError(
                    f"Two clips are called {printable(entry.name, 100)} (case does not count), but each item has a "
                    "name of its own; give their shards to separate folders of items."
                )
            entries[entry.name.casefold()] = entry
            _write_item(folder, entry.name, sample)
            rows.append([entry.name, ";".join(labels.get(sample["id"], ()))])
            if on_step is not None:
                on_step(number + 1, len(read))
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["name", "labels"], *rows])
        return list(entries.values())

    return write_folder(out, source, fill)


def labels_of(lists: Sequence[Path], classes: Path | None, wanted: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Names of classes of the wanted clips, from AudioSet's lists.

    Raises:
        ValueError: a list of another form, or lists without the classes.
    """
    if lists and classes is None:
        raise ValueError(
            "--csv came without --classes, but labels are codes there; give AudioSet's class_labels_indices.csv."
        )
    if not lists or classes is None:
        return {}
    names = {index: name for index, name in read_classes(classes).values()}
    return {
        clip.id: tuple(names[index] for index in clip.labels or ())
        for each in lists
        for clip in read_clips(each, "audioset", classes)
        if clip.id in wanted
    }


def file_name(clip: str) -> str:
    """What the files of a clip are called: its id, in which a folder of videos of one's own may have slashes."""
    return clip.replace("/", "__").replace("\\", "__")


def _write_item(folder: Path, name: str, sample: dict[str, Any]) -> None:
    """Image, mask and reference of one item."""
    images = sample["images"]  # [F, H, W, 3] uint8
    Image.fromarray(images[len(images) // 2].numpy()).save(folder / "images" / f"{name}.png")
    masks = sample.get("masks")
    if masks is not None and len(masks):
        heard = list(sample.get("sounding") or range(len(masks)))
        Image.fromarray(np.asarray(masks[heard].amax(dim=0))).save(folder / "masks" / f"{name}.png")
    write_audio(folder / "reference" / f"{name}.wav", sample["waveform"], SAMPLE_RATE)
