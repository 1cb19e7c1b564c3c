"""The samples of a listening test: images with what is selected in them, and the sounds of every system.

A folder of samples has an image `NAME.jpg` (or .png, .webp) per item and one sub-folder per system with the sounds,
`SYSTEM/NAME.wav` (or .flac, .ogg, .mp3):

    samples/
      yard.jpg  yard_mask.png  yard.txt  yard_object.txt
      ours/yard.wav
      audioldm2/yard.wav

`NAME.txt` is the text that raters read. `NAME_mask.png` (white selects) makes the item object-specific, and
`NAME_object.txt` names the selected object; without it the text does. A system may lack sounds of some items.

Other layouts are described by a manifest, `samples.json` in the folder:

    {"samples": [{"name": "yard", "image": "images/yard.jpg", "mask": "masks/dog.png", "text": "a dog barks",
                  "object": "dog", "sounds": {"ours": "a/1.wav", "audioldm2": "b/1.wav"}}]}
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sounding.utils.fields import MOST_JSON, Length, from_dict, parse_json
from sounding.utils.files import hash_file
from sounding.utils.messages import printable, shown

MANIFEST = "samples.json"
MOST_ITEMS, MOST_SYSTEMS, MOST_LETTERS = 2000, 50, 500
MOST_SECONDS = 600.0  # of a sound
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")  # what browsers play
NAME = re.compile(r"\w[\w .,+&()-]{0,79}")
CONTROL = "noise-only control"  # what controls are called where systems have their names; no system may be called so


@dataclass(frozen=True)
class Item:
    """An image with what is selected in it, and a sound per system; all files exist."""

    name: str
    image: Path
    mask: Path | None
    text: str
    object: str
    sounds: dict[str, Path]


@dataclass(frozen=True)
class Entry:
    """An item in the manifest; paths are relative to the folder."""

    name: str
    image: str
    text: str
    sounds: Annotated[dict[str, str], Length(1, MOST_SYSTEMS)]
    mask: str | None = None
    object: str = ""


@dataclass(frozen=True)
class Manifest:
    """The file samples.json."""

    samples: Annotated[list[Entry], Length(1, MOST_ITEMS)]


def read_samples(folder: Path) -> list[Item]:
    """All items of a folder, in order of their names.

    Raises:
        ValueError: no folder, nothing in it, an unreadable manifest, a missing text, an odd name, or a path that leads
            out of the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{printable(folder)} is not a folder, but one with images and sounds is expected.")
    entries = _read_manifest(folder) if (folder / MANIFEST).exists() else _find_entries(folder)
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError(f"{printable(folder)} has two samples of one name; names must differ.")
    items = [_checked(folder, entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    systems = systems_of(items)
    if len(systems) > MOST_SYSTEMS:
        raise ValueError(f"{printable(folder)} has {len(systems)} systems, but at most {MOST_SYSTEMS} are expected.")
    return items


def systems_of(items: list[Item]) -> list[str]:
    """Names of all systems, sorted."""
    return sorted({system for item in items for system in item.sounds})


def digest_of(items: list[Item]) -> str:
    """A hash of names, texts and the bytes of every file: raters of one study must have rated the same samples."""
    digest = hashlib.sha256()
    for item in items:
        files = [item.image, *([item.mask] if item.mask else []), *(file for _, file in sorted(item.sounds.items()))]
        said = [item.name, item.text, item.object, item.mask is not None, sorted(item.sounds)]
        said.append([hash_file(file).hexdigest() for file in files])
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()


def _read_manifest(folder: Path) -> list[Entry]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > 4 * MOST_JSON:
            raise ValueError(f"it has more than {4 * MOST_JSON} bytes")
        data = parse_json(path.read_text(encoding="utf-8"), most=4 * MOST_JSON)
        if not isinstance(data, dict):
            raise ValueError('an object with "samples" is expected')
        manifest: Manifest = from_dict(Manifest, data)
    except (OSError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read as a manifest: {str(error).rstrip('.')}.") from None
    return manifest.samples


def _find_entries(folder: Path) -> list[Entry]:
    """The entries that a manifest of the folder would have."""
    systems = [each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    entries: list[Entry] = []
    for image in sorted(folder.iterdir()):
        name = image.stem
        if image.suffix.lower() not in IMAGES or name.startswith(".") or name.endswith("_mask"):
            continue
        if len(entries) == MOST_ITEMS:
            raise ValueError(f"{printable(folder)} has more than {MOST_ITEMS} images; split it.")
        sounds: dict[str, str] = {}
        for system in systems:
            found = [system / f"{name}{ending}" for ending in SOUNDS if (system / f"{name}{ending}").is_file()]
            if len(found) > 1:
                raise ValueError(f"{printable(system)} has several sounds called {shown(name)}; leave one.")
            if found:
                sounds[system.name] = str(found[0].relative_to(folder))
        if not sounds:
            raise ValueError(f"{printable(image)} has no sound in any sub-folder; add one, or remove the image.")
        masks = [path for ending in IMAGES if (path := folder / f"{name}_mask{ending}").is_file()]
        entries.append(
            Entry(
                name=name,
                image=image.name,
                mask=masks[0].name if masks else None,
                text=_read_text(folder / f"{name}.txt"),
                object=_read_text(folder / f"{name}_object.txt"),
                sounds=sounds,
            )
        )
    if not entries:
        raise ValueError(f"{printable(folder)} has no images, but NAME.jpg beside SYSTEM/NAME.wav is expected.")
    return entries


def _read_text(path: Path) -> str:
    """The first line, or "" where there is no such file."""
    if not path.is_file():
        return ""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(MOST_LETTERS + 2).strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read as UTF-8 text ({printable(error, 80)}).") from None


def _checked(folder: Path, entry: Entry) -> Item:
    """An entry's files and texts, if they are what they should be."""
    for name in (entry.name, *entry.sounds):
        if not NAME.fullmatch(name) or name == CONTROL:
            raise ValueError(f"{shown(name)} cannot name a sample or system; use letters, digits, spaces and hyphens.")
    for text in (entry.text, entry.object):
        if len(text) > MOST_LETTERS or not text.isprintable():
            raise ValueError(f"The text of {entry.name} is not one line of at most {MOST_LETTERS} printable letters.")
    if not entry.text.strip():
        raise ValueError(f"{entry.name} has no text, which the sound is compared with; write it to {entry.name}.txt.")
    if not entry.sounds:
        raise ValueError(f"{entry.name} has no sound; name one per system.")
    return Item(
        name=entry.name,
        image=_inside(folder, entry.image, IMAGES),
        mask=_inside(folder, entry.mask, IMAGES) if entry.mask else None,
        text=entry.text.strip(),
        object=entry.object.strip() or entry.text.strip(),
        sounds={system: _inside(folder, path, SOUNDS) for system, path in sorted(entry.sounds.items())},
    )


def _inside(folder: Path, name: str, endings: tuple[str, ...]) -> Path:
    """A file of the folder; links that lead out of it are refused, since the page hands out what they point to."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"{shown(name)} is not a file in {printable(folder)}; copy it there.")
    if path.suffix.lower() not in endings:
        raise ValueError(f"{shown(name)} ends in {path.suffix!r}, but one of {', '.join(endings)} is expected.")
    return path
