"""Training samples of new objects and of rehearsal objects, in equal numbers.

An object with an outline is pasted into scenes as the starter's cut-outs are (`scenes.py`), or stays where it was
photographed. One without an outline is shown whole, cropped and lit anew, or its whole rectangle is pasted. New and
known objects meet in scenes, so that a mask goes on to choose between them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from ..data.object_set import ObjectEntry, ObjectSet
from ..data.scenes import Scene, make_scene, scene_caption, scene_sound
from ..data.shard_format import SAMPLE_RATE, Sample
from ..data.source import Source, hash_json
from .objects import Picture, TaughtObject

ALONE = 0.75  # share of samples in which one object sounds, whatever else is seen
WHOLE = 0.5  # share of samples of images with a background that show it
COUNTS = (0.35, 0.35, 0.2, 0.1)  # of 0 to 3 other objects in a scene


class Cast(ObjectSet):
    """One image, recording and caption of every object: what scenes are made of. Chosen by `rng`, or the first."""

    def __init__(self, objects: Sequence[TaughtObject], rng: np.random.Generator | None = None):
        def pick(count: int) -> int:
            return 0 if rng is None else int(rng.integers(count))

        self.pictures = [thing.pictures[pick(len(thing.pictures))] for thing in objects]
        self.recordings = [thing.recordings[pick(len(thing.recordings))] for thing in objects]
        captions = [thing.captions[pick(len(thing.captions))] for thing in objects]
        self.cutouts = [picture.cutout for picture in self.pictures]
        self.entries = [
            ObjectEntry(thing.name, i, caption, "", "", "", len(sound) / SAMPLE_RATE, thing.name, thing.licence)
            for i, (thing, caption, sound) in enumerate(zip(objects, captions, self.recordings, strict=True))
        ]


class ObjectSceneSource(Source):
    """Sample `i` is of new object `i // 2` (turn by turn) for even `i`, of known object `i // 2` for odd `i`.

    Args:
        new: objects to be learnt.
        known: objects to be kept; without any all samples are of new ones.
        count: samples.
        seconds: of the sound.
        size: side of the square image.
        captions: a sample.
        seed: of everything random.
    """

    def __init__(
        self,
        new: Sequence[TaughtObject],
        known: Sequence[TaughtObject],
        *,
        count: int,
        seconds: float,
        size: int,
        captions: int = 4,
        seed: int = 0,
    ):
        self.objects = [*new, *known]
        self.new, self.known = len(new), len(known)
        self.count, self.seconds, self.size, self.captions, self.seed = count, seconds, size, captions, seed
        self._inputs = hash_json(
            [thing.name, thing.captions, *(zlib.crc32(picture.image.tobytes()) for picture in thing.pictures)]
            + [zlib.crc32(sound.numpy().tobytes()) for sound in thing.recordings]
            for thing in self.objects
        )

    def __len__(self) -> int:
        return self.count

    def settings(self) -> dict[str, Any]:
        """See Source."""
        names = ("new", "known", "count", "seconds", "size", "captions", "seed")
        return {"from": "own", **{name: getattr(self, name) for name in names}, "inputs": self._inputs}

    def name(self, position: int) -> str:
        """See Source."""
        return f"{self.objects[self.object_of(position)].name} {position}"

    def object_of(self, position: int) -> int:
        """The number of the object that a sample is of."""
        if not self.known:
            return position % self.new
        turn, known = divmod(position, 2)
        return self.new + turn % self.known if known else turn % self.new

    def make(self, position: int) -> Sample:
        """See Source."""
        rng = np.random.default_rng([self.seed, 21, position])
        cast, number = Cast(self.objects, rng), self.object_of(position)
        picture = cast.pictures[number]
        if not picture.cut and rng.random() < WHOLE:
            scene = whole_scene(picture, number, self.size, rng)
        else:
            scene = mixed_scene(cast, number, self.size, rng)
        captions = tuple(scene_caption(Cast(self.objects, rng), scene, rng) for _ in range(self.captions))
        samples = round(self.seconds * SAMPLE_RATE)
        return Sample(
            id=self.name(position),
            captions=captions,
            licence=" AND ".join(sorted({self.objects[label].licence for label in scene.labels})) or "unknown",
            source="; ".join(self.objects[label].name for label in scene.labels),
            seconds=round(samples / SAMPLE_RATE, 3),
            labels=scene.labels,
            sounding=scene.sounding,
            waveform=scene_sound(cast, scene, samples, rng).numpy(),
            images=(scene.image,),
            masks=tuple(scene.masks),
        )


def mixed_scene(cast: Cast, number: int, size: int, rng: np.random.Generator) -> Scene:
    """Object `number` among up to three others; it sounds, mostly alone."""
    others = [i for i in range(len(cast)) if i != number]
    count = min(int(rng.choice(len(COUNTS), p=COUNTS)), len(others))
    labels = (number, *(int(i) for i in rng.choice(others, count, replace=False)))
    scene = make_scene(cast, rng, size=(size, size), labels=labels)
    if count == 0 or rng.random() < ALONE:
        return dataclasses.replace(scene, sounding=(0,), gains_db=(0.0,))
    return dataclasses.replace(scene, sounding=(0, 1), gains_db=tuple(float(g) for g in rng.uniform(-6, 6, 2)))


def whole_scene(picture: Picture, number: int, size: int, rng: np.random.Generator) -> Scene:
    """The photograph as it is: a part of it, perhaps mirrored, in other light. Without an outline all of it sounds."""
    image = picture.image
    inside = (image.getchannel("A").getbbox() if picture.masked else None) or (0, 0, *image.size)
    left, top, right, bottom = (float(edge) for edge in inside)
    if not picture.masked:  # photographs are of something in their middle
        across, down = 0.2 * image.width, 0.2 * image.height
        left, top, right, bottom = left + across, top + down, right - across, bottom - down
    box = (
        float(rng.uniform(0, left)),
        float(rng.uniform(0, top)),
        float(rng.uniform(right, image.width)),
        float(rng.uniform(bottom, image.height)),
    )
    shown = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = np.asarray(shown.getchannel("A"))
    lit = shown.convert("RGB")
    for change in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        lit = change(lit).enhance(float(rng.uniform(0.75, 1.25)))
    return Scene(np.asarray(lit), mask[None], (number,), (0,), (0.0,))
