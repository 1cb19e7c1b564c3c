"""A folder of items: images with a selected object each, what it really sounds like, and what is in the image.

    images/NAME.png     the image
    masks/NAME.png      the selected object, white on black; of background items all that is no object
    reference/NAME.wav  a real sound of the selected object; none of background items
    labels.csv          name,labels,others: classes of the selected object, and of the objects that are not selected
    items.json          captions, objects and kinds, and what the folder was made from

`python -m training evaluate items` writes one of a test set's clips, `python -m training starter evaluate items` one of
the starter's scenes. To read one, `images` is enough: without `items.json` each
image is an item that nothing is known about.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sounding.utils.fields import Checked, Length, Text, from_dict
from sounding.utils.files import hidden_name, remove_abandoned
from sounding.utils.messages import printable, shown

from ..data.shard_format import read_json

MOST_JSON = 2**28  # bytes of items.json
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ItemObject(Checked):
    """An object in the image: its class, a phrase that names it, and its box (left, top, right, bottom) in pixels."""

    name: Annotated[str, Text(200)]
    caption: Annotated[str, Text(1000)]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class ItemEntry(Checked):
    """What is known of an item. Of kinds "object" and "pair" the first object is the selected one.

    `caption` says what is selected; it is empty where that is the background, or where nothing is known.
    """

    name: Annotated[str, Text(200)]
    kind: Literal["object", "pair", "background"]
    caption: Annotated[str, Text(1000)]
    objects: Annotated[tuple[ItemObject, ...], Length(0, 1000)] = ()

    @property
    def selected(self) -> tuple[ItemObject, ...]:
        """Objects that the mask covers."""
        return () if self.kind == "background" else self.objects[:1]

    @property
    def others(self) -> tuple[ItemObject, ...]:
        """Objects that it does not cover."""
        return self.objects if self.kind == "background" else self.objects[1:]


@dataclass(frozen=True)
class Item:
    """An item and its files; `mask` is None where there is none."""

    entry: ItemEntry
    image: Path
    mask: Path | None

    @property
    def name(self) -> str:
        """The stem of all its files."""
        return self.entry.name


def write_entries(entries: list[ItemEntry], source: dict[str, Any]) -> bytes:
    """The content of `items.json`.

    Args:
        entries: of the items.
        source: what they were made from (JSON); kept under the key "source".
    """
    return json.dumps({"source": source, "items": [asdict(entry) for entry in entries]}, indent=1).encode()


def write_folder(out: Path, source: dict[str, Any], fill: Callable[[Path], list[ItemEntry]]) -> Path:
    """Write a folder of items in one step; one that is there and was made from the same stays as it is.

    Args:
        out: the new folder.
        source: see `write_entries`.
        fill: writes all but `items.json` into a folder that has the empty `images`, `masks` and `reference`.

    Raises:
        ValueError: `out` holds something else.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, but a folder for the items is expected; give another place.")
    if out.is_dir() and any(out.iterdir()):
        _check_same(out, source)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent)
    temporary = out.parent / hidden_name()
    try:
        for folder in ("images", "masks", "reference"):
            (temporary / folder).mkdir(parents=True)
        (temporary / "items.json").write_bytes(write_entries(fill(temporary), source))
        if out.is_dir():  # an empty one, which not every system lets a folder replace
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _check_same(out: Path, source: dict[str, Any]) -> None:
    """Whether a folder holds the items that are asked for."""
    found = read_source(out) if (out / "items.json").is_file() else {}
    different = sorted(key for key in source.keys() | found.keys() if source.get(key) != found.get(key))
    if different:
        raise ValueError(
            f"{out} is not empty and holds something else than these items ({', '.join(different)} differ); give "
            "another folder, or delete it."
        )


def read_source(folder: Path) -> dict[str, Any]:
    """What a folder was made from, as `write_entries` got it.

    Raises:
        ValueError: see `read_items`.
    """
    return _read_json(folder / "items.json")["source"]


def read_seconds(folder: Path) -> float | None:
    """The length of the recordings of a folder, if its `items.json` says so.

    Raises:
        ValueError: see `read_items`.
    """
    seconds = read_source(folder).get("seconds") if (folder / "items.json").is_file() else None
    return float(seconds) if isinstance(seconds, (int, float)) and 0.5 <= seconds <= 60 else None


def read_items(folder: Path) -> list[Item]:
    """The items of a folder, in the order of `items.json`, or else in the order of their images' names.

    Raises:
        ValueError: there is no folder of images, or a damaged `items.json`.
    """
    if not (folder / "images").is_dir():
        raise ValueError(
            f"{folder} has no folder `images`, but one of items is expected; `python -m training starter evaluate "
            "items` writes one."
        )
    images = _by_stem(folder / "images")
    masks = _by_stem(folder / "masks") if (folder / "masks").is_dir() else {}
    described = folder / "items.json"
    entries = _entries(described) if described.is_file() else [ItemEntry(name, "object", "") for name in images]
    missing = [entry.name for entry in entries if entry.name not in images]
    if missing:
        raise ValueError(
            f"{folder} lists the item {printable(missing[0], 100)}, but images/ has no image of that name "
            f"({len(missing)} such items); make the folder again."
        )
    if not entries:
        raise ValueError(f"{folder} has no items, but at least one image is expected.")
    return [Item(entry, images[entry.name], masks.get(entry.name)) for entry in entries]


def _by_stem(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and path.name[0] != ".")
    return {path.stem: path for path in files}


def _entries(path: Path) -> list[ItemEntry]:
    try:
        entries: list[ItemEntry] = [from_dict(ItemEntry, row) for row in _read_json(path)["items"]]
        names = [entry.name.casefold() for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError("two items have one name")
        bad = [name for name in names if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name)]
        if bad:
            raise ValueError(f"{shown(bad[0])} cannot be a file's name")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({printable(error, 300)}); make the folder again.") from None
    return entries


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, MOST_JSON)
        if not isinstance(content, dict) or not isinstance(content.get("items"), list):
            raise ValueError("a mapping with a list of items is expected")
        if not isinstance(content.get("source"), dict):
            raise ValueError("the mapping `source` is missing")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({printable(error, 300)}); make the folder again.") from None
    return content
