"""Scenes to learn clicking on: more objects, more backgrounds and rougher treatment than those that sound."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data.scenes import background, background_photographs, make_scene, part_of, scene_rng
from ..tasks.clicks import bounds
from .cutouts import Cutouts

TEXTURES = slice(0, 3)  # of scenes' photographs: grass, gravel, brick, which show no object
LEAST_AREA = 0.003  # of the image; what is hidden beyond that is not clicked on
CLOSER = 0.45  # share of scenes that are seen as the segmenter sees an object that it looks at more closely
FRAMES = (1.25, 2.2)  # how wide that view is, in sizes of the object


@dataclass(frozen=True)
class ClickScene:
    """An image and the objects in it that can be clicked on."""

    picture: np.ndarray  # [S, S, 3] uint8
    masks: np.ndarray  # [k, S, S] uint8


def click_scene(data: Cutouts, index: int, side: int) -> ClickScene:
    """The training scene `index`: one to five objects mostly before photographs, whole or a part of it seen close."""
    rng = scene_rng("train", index)
    photographs = [*data.photographs, *background_photographs()[TEXTURES]]

    def backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
        if rng.random() < 0.8:
            return part_of(photographs, rng, size)
        return background(rng, size)

    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.3, 0.25, 0.2, 0.15, 0.1]))
    labels = tuple(int(i) for i in rng.choice(len(data), min(count, len(data)), replace=False))
    closer = rng.random() < CLOSER
    # What is looked at more closely is seen as sharply as the image was taken, which is not very.
    close = float(rng.uniform(1.0, 2.0) if closer else rng.uniform(1.1, 1.8) if rng.random() < 0.35 else 1.0)
    whole = round(side * close)
    scene = make_scene(data, rng, size=(whole, whole), labels=labels, backdrop=backdrop)
    if closer:
        x, y, extent = _frame(scene.masks, rng)
    else:
        x, y, extent = int(rng.integers(0, whole - side + 1)), int(rng.integers(0, whole - side + 1)), side
    picture = _treated(_resized(scene.image[y : y + extent, x : x + extent], side), rng)
    masks = np.stack([_resized(mask[y : y + extent, x : x + extent], side) for mask in scene.masks])
    seen = (masks > 127).mean(axis=(1, 2)) >= LEAST_AREA
    if not seen.any():  # the part that was cut out shows none of them
        return click_scene(data, index + 10_000_019, side)
    return ClickScene(picture, np.ascontiguousarray(masks[seen]))


def _frame(masks: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    """Left, top and side of a square about one of the objects of [k, S, S], not quite in its middle."""
    whole = masks.shape[-1]
    mask = masks[int(rng.integers(len(masks)))] > 127
    if not mask.any():
        return 0, 0, whole
    x0, y0, x1, y1 = bounds(mask)
    size = max(x1 - x0, y1 - y0)
    extent = int(min(whole, max(size * rng.uniform(*FRAMES), whole // 4)))
    off = rng.uniform(-0.1, 0.1, 2) * extent
    middle = np.array([x0 + x1 - 1, y0 + y1 - 1]) / 2 + off
    x, y = np.clip(np.round(middle - extent / 2), 0, whole - extent).astype(int)
    return int(x), int(y), extent


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """[h, w] or [h, w, 3] uint8 at `side` x `side`."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def _treated(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another hue, grey, or a JPEG's blocks, each now and then."""
    image = Image.fromarray(picture)
    if rng.random() < 0.25:
        hue, saturation, value = image.convert("HSV").split()
        turn = int(rng.integers(0, 256))
        image = Image.merge("HSV", (hue.point(lambda h: (h + turn) % 256), saturation, value)).convert("RGB")
    elif rng.random() < 0.1:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(40, 95)))
        image = Image.open(file).convert("RGB")
    return np.asarray(image)
