"""Objects with a cut-out image and a recording each: what scenes are pasted together from.

The folder of such a set holds `manifest.json`, which lists every object with its files, and those files.
`python -m training starter stamps` writes one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sounding.audio.files import read_audio
from sounding.config import from_dict
from sounding.images.decoding import open_image

from .shard_format import SAMPLE_RATE, read_json

MANIFEST = "manifest.json"
MOST_MANIFEST = 1 << 26  # bytes


@dataclass(frozen=True)
class ObjectEntry:
    """One row of the manifest. `image` (RGBA), `mask` and `audio` are paths relative to it; `mask` may be empty."""

    name: str
    label: int
    caption: str
    image: str
    mask: str
    audio: str
    seconds: float
    source: str
    licence: str


def read_manifest(folder: Path) -> list[ObjectEntry]:
    """The objects that a folder lists.

    Raises:
        FileNotFoundError: there is no manifest; the message says how to make one.
        ValueError: a damaged manifest, or files outside of its folder.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} is missing; make it with `python -m training starter stamps --out {folder}`."
        )
    try:
        rows = read_json(manifest, MOST_MANIFEST)
        if not isinstance(rows, list):
            raise ValueError(f"a {type(rows).__name__} came, but a list is expected")
        entries: list[ObjectEntry] = [from_dict(ObjectEntry, row) for row in rows]
        for entry in entries:
            for file in (entry.image, entry.audio):
                if not (folder / file).resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"{file[:100]!r} is not in its folder")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); make the data set again.") from None
    return entries


def content_digest(folder: Path) -> str:
    """SHA-256 of the manifest and of all images and recordings that it names, in its order.

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`.
        OSError: a file is missing or cannot be read.
    """
    entries = read_manifest(folder)
    total = hashlib.sha256((folder / MANIFEST).read_bytes())
    for entry in entries:
        for file in (entry.image, entry.audio):
            total.update(hashlib.sha256((folder / file).read_bytes()).digest())
    return total.hexdigest()


class ObjectSet:
    """A folder of objects in memory: `entries`, `cutouts` (PIL RGBA) and `recordings` ([samples] float at 16 kHz).

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`; also a file that cannot be read.
    """

    def __init__(self, folder: Path):
        self.entries = read_manifest(folder)
        self.cutouts = [open_image(folder / entry.image).convert("RGBA") for entry in self.entries]
        self.recordings = [read_audio(folder / entry.audio, SAMPLE_RATE) for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)
