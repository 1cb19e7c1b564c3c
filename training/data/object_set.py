"""Objects with images and recordings of each: what scenes are pasted together from.

The folder of such a set holds `manifest.json` and the files that it lists: `{"objects": [...], "silent": [...],
"backgrounds": [...]}`, or the list of objects alone. Silent things and backgrounds are images that no sound belongs to.
`python -m training starter stamps` writes a set of one image and one recording each, `starter data` a larger one.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from sounding.audio.files import read_audio
from sounding.config import from_dict
from sounding.images.decoding import open_image

from .shard_format import SAMPLE_RATE, read_json

MANIFEST = "manifest.json"
MOST_MANIFEST = 1 << 26  # bytes


@dataclass(frozen=True)
class ObjectEntry:
    """One row of the manifest; files are relative to it.

    Attributes:
        name: of the object.
        label: its place in the list, in which objects with an image come first, then those with a class.
        caption: what it is called.
        image: RGBA, opaque where the object is; empty if there is no image of it.
        mask: of `image`; may be empty.
        audio: a recording of it.
        seconds: how long that is.
        source: where the files come from.
        licence: of all of them.
        captions, images, recordings: further ones.
        whole: it is no thing in an image but all of it, as a sea or rain is.
        classes: numbers of the ImageNet-1k classes that show it.
    """

    name: str
    label: int
    caption: str
    image: str
    mask: str
    audio: str
    seconds: float
    source: str
    licence: str
    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()
    whole: bool = False
    classes: tuple[int, ...] = ()

    @property
    def all_captions(self) -> tuple[str, ...]:
        """All that it is called."""
        return (self.caption, *self.captions)

    @property
    def all_images(self) -> tuple[str, ...]:
        """Files of all its images."""
        return (self.image, *self.images) if self.image else ()

    @property
    def all_recordings(self) -> tuple[str, ...]:
        """Files of all its recordings."""
        return (self.audio, *self.recordings)


@dataclass(frozen=True)
class Manifest:
    """What a folder of objects lists; `silent` and `backgrounds` are files."""

    objects: tuple[ObjectEntry, ...]
    silent: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()

    @property
    def visible(self) -> tuple[ObjectEntry, ...]:
        """The objects that can be learned by sight: those with an image, then those that ImageNet has a class for."""
        return tuple(entry for entry in self.objects if entry.image or entry.classes)

    def files(self) -> Iterator[str]:
        """All files, in order."""
        for entry in self.objects:
            yield from (*entry.all_images, *entry.all_recordings)
        yield from (*self.silent, *self.backgrounds)


def read_set(folder: Path) -> Manifest:
    """What a folder of objects lists.

    Raises:
        FileNotFoundError: there is no manifest; the message says how to make one.
        ValueError: a damaged manifest, or files outside of its folder.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{manifest} is missing; make it with `python -m training starter stamps --out {folder}`, or, with many "
            "recordings, with `python -m training starter data`."
        )
    try:
        content = read_json(manifest, MOST_MANIFEST)
        if not isinstance(content, (list, dict)):
            raise ValueError(f"a {type(content).__name__} came, but a list or an object is expected")
        found: Manifest = from_dict(Manifest, {"objects": content} if isinstance(content, list) else content)
        order = [(not entry.image, not entry.image and not entry.classes) for entry in found.objects]
        if order != sorted(order):
            raise ValueError("objects with an image come first, then those with a class, but here they do not")
        for file in found.files():
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{file[:100]!r} is not in its folder")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); make the data set again.") from None
    return found


def read_manifest(folder: Path) -> list[ObjectEntry]:
    """The objects that a folder has images of.

    Raises:
        FileNotFoundError, ValueError: see `read_set`.
    """
    return [entry for entry in read_set(folder).objects if entry.image]


def content_digest(folder: Path) -> str:
    """SHA-256 of the manifest and of all images and recordings that it names, in its order.

    Raises:
        FileNotFoundError, ValueError: see `read_set`.
        OSError: a file is missing or cannot be read.
    """
    found = read_set(folder)
    total = hashlib.sha256((folder / MANIFEST).read_bytes())
    for file in found.files():
        total.update(hashlib.sha256((folder / file).read_bytes()).digest())
    return total.hexdigest()


class ObjectSet:
    """A folder of objects in memory.

    Attributes:
        entries: the objects that there are images of.
        cutouts, recordings: one image (PIL RGBA) and one recording ([samples] float at 16 kHz) of each of them.
        images, sounds: all of each.
        unseen, unseen_sounds: objects without an image, and all recordings of each; those with a class first.
        silent, backgrounds: images of other things (RGBA), and photographs without a thing (RGB).

    Raises:
        FileNotFoundError, ValueError: see `read_set`; also a file that cannot be read.
    """

    def __init__(self, folder: Path):
        found = read_set(folder)

        def opened(files: Sequence[str], mode: str) -> list[Image.Image]:
            return [open_image(folder / file).convert(mode) for file in files]

        def sounds(entry: ObjectEntry) -> list[Tensor]:
            return [read_audio(folder / file, SAMPLE_RATE) for file in entry.all_recordings]

        self.entries = [entry for entry in found.objects if entry.image]
        self.images = [opened(entry.all_images, "RGBA") for entry in self.entries]
        self.sounds = [sounds(entry) for entry in self.entries]
        self.cutouts = [images[0] for images in self.images]
        self.recordings = [recordings[0] for recordings in self.sounds]
        self.unseen = [entry for entry in found.objects if not entry.image]
        self.unseen_sounds = [sounds(entry) for entry in self.unseen]
        self.silent, self.backgrounds = opened(found.silent, "RGBA"), opened(found.backgrounds, "RGB")

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def whole(self) -> list[int]:
        """Labels of what is all of an image."""
        return [entry.label for entry in self.entries if entry.whole]

    @property
    def imagined(self) -> list[ObjectEntry]:
        """Objects without an image that ImageNet has a class for; none where nothing can stand in their place."""
        return [entry for entry in self.unseen if entry.classes] if self.silent else []

    @property
    def visible(self) -> list[tuple[ObjectEntry, list[Tensor]]]:
        """The objects that can be learned by sight, as `Manifest.visible` has them, with all recordings of each."""
        classed = [pair for pair in zip(self.unseen, self.unseen_sounds, strict=True) if pair[0].classes]
        return [*zip(self.entries, self.sounds, strict=True), *classed]

    @property
    def all_recordings(self) -> list[Tensor]:
        """Those of all objects, with an image or without."""
        return [sound for sounds in (*self.sounds, *self.unseen_sounds) for sound in sounds]

    def draw(self, rng: np.random.Generator) -> ObjectSet:
        """The same objects, with `cutouts` and `recordings` drawn from all of each."""
        drawn = copy.copy(self)
        drawn.cutouts = [any_of(images, rng) for images in self.images]
        drawn.recordings = [any_of(sounds, rng) for sounds in self.sounds]
        return drawn


OPAQUE = 8  # of 255: less alpha counts as nothing


def without_margin(image: Image.Image) -> Image.Image:
    """An image with an alpha channel, cropped to what can be seen of it; as it is if that is nothing."""
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE)).getbbox())


T = TypeVar("T")


def any_of(choices: Sequence[T], rng: np.random.Generator) -> T:
    """One of the choices; nothing is drawn where there is only one."""
    return choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]
