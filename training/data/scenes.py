"""Scenes: one to four cut-outs on a background, some of them sounding, a caption that names those.

A scene follows from (split, index) alone. Training and held-out scenes never share a random stream; they do
share objects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from .object_set import ObjectSet, any_of
from .waveforms import fill, mix

Split = Literal["train", "held-out"]
SPLIT_SEEDS: dict[Split, int] = {"train": 11, "held-out": 12}
SIDE = 288  # pixels, unless a caller says otherwise
MOST_SILENT = 2  # silent things behind the objects of a scene
TEMPLATES = ("{}", "{}", "the sound of {}", "{} making a sound", "an image of {}")


@dataclass(frozen=True)
class Scene:
    """An image with what is in it. `masks[i]` is what can be seen of object `labels[i]`."""

    image: np.ndarray  # [H, W, 3] uint8
    masks: np.ndarray  # [k, H, W] uint8
    labels: tuple[int, ...]
    sounding: tuple[int, ...]  # positions in `labels`
    gains_db: tuple[float, ...]  # one per sounding object


def scene_rng(split: Split, index: int) -> np.random.Generator:
    """The random stream of one scene."""
    return np.random.default_rng([SPLIT_SEEDS[split], index])


class HasCutouts(Protocol):
    """Objects to put into scenes: an `ObjectSet`, or anything else with a list of RGBA images."""

    @property
    def cutouts(self) -> list[Image.Image]:
        """One per object."""
        ...

    def __len__(self) -> int: ...


Backdrop = Callable[[np.random.Generator, tuple[int, int]], Image.Image]


def make_scene(
    data: HasCutouts,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (SIDE, SIDE),
    labels: tuple[int, ...] | None = None,
    backdrop: Backdrop | None = None,
    filling: Collection[int] = (),
) -> Scene:
    """Draw a scene of `size` (width, height), with the given objects or one to four random ones.

    `backdrop` paints what is behind them; without it `background` does. Objects that are `filling` the image come first
    in `labels`, and cover all of it.
    """
    if labels is None:
        labels = random_labels(len(data), rng)
    for attempt in range(8):
        canvas = (backdrop or background)(rng, size).convert("RGB")
        masks = [np.zeros(size[::-1], np.uint8) for _ in labels]
        whole = []
        for place, label in enumerate(labels):
            if label in filling:
                cutout, corner = part_of([data.cutouts[label]], rng, size), (0, 0)
            else:
                cutout, corner = placed(data.cutouts[label], rng, size, len(labels), attempt)
            layer = Image.new("L", size)
            layer.paste(cutout.getchannel("A"), corner)
            canvas.paste(cutout.convert("RGB"), corner, cutout.getchannel("A"))
            alpha = np.asarray(layer)
            for below in range(place):  # what is painted later hides what was there
                masks[below] = (masks[below].astype(np.uint16) * (255 - alpha) // 255).astype(np.uint8)
            masks[place] = alpha
            whole.append(max(1, int(alpha.sum())))
        seen = [int(mask.sum()) / full for mask, full in zip(masks, whole, strict=True)]
        if min(seen) > 0.5:
            break
    sounding = rng.permutation(len(labels))[: int(rng.integers(1, len(labels) + 1))]
    gains = rng.uniform(-6, 6, len(sounding))
    return Scene(
        lit(canvas, rng),
        np.stack(masks),
        labels,
        tuple(int(i) for i in sounding),
        tuple(float(g) for g in gains),
    )


def random_labels(objects: int, rng: np.random.Generator) -> tuple[int, ...]:
    """One to four different objects."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15]))
    return tuple(int(i) for i in rng.choice(objects, min(count, objects), replace=False))


def draw_scene(
    data: ObjectSet,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (SIDE, SIDE),
    labels: tuple[int, ...] | None = None,
) -> tuple[ObjectSet, Scene]:
    """A scene of one to four objects that any of a set's images show, and the set with those images and recordings.

    They are the given objects or random ones. One of them at most, the first such, fills the image; it comes first in
    the scene's `labels`, and others that would are left out. Behind them are the set's own backgrounds, if it has such,
    and silent things, which no mask shows: they are a part of the background.
    """
    drawn, filling = data.draw(rng), data.whole
    if labels is None:
        labels = random_labels(len(data), rng)
    first = [label for label in labels if label in filling][:1]
    things = [label for label in labels if label not in filling]
    return drawn, make_scene(
        drawn, rng, size=size, labels=(*first, *things), backdrop=_backdrop_of(data), filling=filling
    )


def draw_stand_in(
    data: ObjectSet, rng: np.random.Generator, *, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[ObjectSet, Scene]:
    """A scene of an object that there is no image of, with a silent thing in its place; see `draw_scene`."""
    entry = any_of(data.imagined, rng)
    drawn = copy.copy(data)
    drawn.entries = [*data.entries, *data.unseen]
    drawn.recordings = [*data.recordings, *(any_of(sounds, rng) for sounds in data.unseen_sounds)]
    drawn.cutouts = [*data.cutouts, *(any_of(data.silent, rng) for _ in data.unseen)]
    return drawn, make_scene(drawn, rng, size=size, labels=(entry.label,), backdrop=_backdrop_of(data))


def _backdrop_of(data: ObjectSet) -> Backdrop | None:
    if not data.silent and not data.backgrounds:
        return None

    def paint(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
        canvas = background(rng, size, [*data.backgrounds, *background_photographs()])
        for _ in range(int(rng.integers(0, MOST_SILENT + 1)) if data.silent else 0):
            cutout, corner = placed(any_of(data.silent, rng), rng, size, MOST_SILENT, 0)
            canvas.paste(cutout.convert("RGB"), corner, cutout.getchannel("A"))
        return canvas

    return paint


def scene_caption(data: ObjectSet, scene: Scene, rng: np.random.Generator) -> str:
    """A sentence with the sounding objects, each by one of its names, in random order and one of a few forms."""
    shown = [data.entries[scene.labels[i]] for i in rng.permutation(scene.sounding)]
    names = [any_of(entry.all_captions, rng) for entry in shown]
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return str(rng.choice(TEMPLATES)).format(listed)


def scene_sound(data: ObjectSet, scene: Scene, samples: int, rng: np.random.Generator) -> Tensor:
    """[samples]: the mix of the sounding objects."""
    clips = [fill(data.recordings[scene.labels[i]], samples, rng) for i in scene.sounding]
    return mix(clips, list(scene.gains_db))


def as_tensors(scene: Scene) -> tuple[Tensor, Tensor]:
    """Image [1, H, W, 3] and masks [k, H, W], float 0..1."""
    return torch.from_numpy(scene.image / np.float32(255))[None], torch.from_numpy(scene.masks / np.float32(255))


def placed(
    cutout: Image.Image, rng: np.random.Generator, size: tuple[int, int], count: int, attempt: int
) -> tuple[Image.Image, tuple[int, int]]:
    """A cut-out scaled, flipped, lit and somewhere in the frame; later attempts make crowded scenes smaller."""
    largest = {1: 0.95, 2: 0.7, 3: 0.6, 4: 0.5}.get(count, 0.4) * 0.93**attempt
    side = rng.uniform(0.5 * largest, largest) * min(size)
    stretch = float(rng.uniform(0.8, 1.25))
    width, height = cutout.width * stretch**0.5, cutout.height / stretch**0.5
    scale = side / max(width, height)
    cutout = cutout.resize((max(4, round(width * scale)), max(4, round(height * scale))), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC, expand=True)
    alpha = cutout.getchannel("A")
    lit = ImageEnhance.Brightness(cutout.convert("RGB")).enhance(float(rng.uniform(0.75, 1.25)))
    lit = ImageEnhance.Color(lit).enhance(float(rng.uniform(0.7, 1.3)))
    lit.putalpha(alpha)
    free = (size[0] - lit.width, size[1] - lit.height)
    x, y = (int(rng.integers(min(0, f), max(0, f) + 1)) for f in free)
    return lit, (x, y)


def lit(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """The whole image's exposure, tint, blur and grain."""
    pixels = np.asarray(canvas, np.float64)
    pixels = pixels * rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3) + rng.uniform(-12, 12)
    if rng.random() < 0.5:
        pixels = pixels + rng.normal(0, rng.uniform(1, 8), pixels.shape)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    return np.asarray(picture)


def background(
    rng: np.random.Generator, size: tuple[int, int], photographs: list[Image.Image] | None = None
) -> Image.Image:
    """A plain colour, a gradient, smooth random texture, or part of one of the photographs."""
    kind = rng.choice(["plain", "gradient", "texture", "photograph"], p=[0.15, 0.2, 0.2, 0.45])
    if kind == "photograph":
        return part_of(photographs or background_photographs(), rng, size)
    cells = {"plain": 1, "gradient": 2, "texture": int(rng.integers(4, 28))}[str(kind)]
    base = rng.uniform(20, 235, 3)
    colours = base + (rng.normal(0, 45, (cells, cells, 3)) if cells > 1 else 0) * np.ones((cells, cells, 1))
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def part_of(photographs: list[Image.Image], rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A random square of one of the photographs, stretched to `size` (width, height)."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    side = float(rng.uniform(0.3, 1.0)) * min(photograph.size)
    x, y = (float(rng.uniform(0, extent - side)) for extent in photograph.size)
    return photograph.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))


@lru_cache(maxsize=1)
def background_photographs() -> list[Image.Image]:
    """Photographs without any of our objects, from scikit-image and scikit-learn (see the model card)."""
    from skimage import data as pictures
    from sklearn.datasets import load_sample_images

    arrays = [pictures.grass(), pictures.gravel(), pictures.brick(), pictures.moon(), pictures.coffee()]
    arrays += load_sample_images().images
    return [Image.fromarray(array).convert("RGB") for array in arrays]
