"""Single objects out of raw shards: what each looks and sounds like, and what it is called.

Fine-tuning rehearses them, so that a model that was trained on shards keeps what it knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .shards import Shards

LEAST_AREA = 0.005  # share of the image that an object's mask covers
SILENCE = 1e-3  # a peak below this is none


@dataclass(frozen=True)
class SingleObject:
    """One sounding object of a sample; `image` is RGBA, opaque where the object is, or all over without a mask."""

    id: str
    captions: tuple[str, ...]
    image: Image.Image
    masked: bool
    waveform: Tensor  # [samples] float at 16 kHz
    licence: str


def read_single_objects(folder: Path, most: int) -> Iterator[SingleObject]:
    """Objects of samples with a caption in which one object alone sounds, `most` at most, evenly from all of them.

    With masks, that is one sounding mask; without, one class. Of several frames the middle one is shown, or the first,
    which masks are of.

    Raises:
        ValueError: no folder of raw shards, or a damaged sample.
    """
    described = Shards(folder, ("id", "captions", "licence"), optional=("labels", "sounding"))
    whole = Shards(folder, ("waveform", "images"), optional=("masks",))
    fitting = [number for number in range(len(described)) if _may_fit(described[number])]
    found = 0
    for number in _evenly(fitting, 2 * most):
        if found == most:
            return
        row, content = described[number], whole[number]
        masks = content.get("masks")
        sounding = row.get("sounding") or range(0 if masks is None else len(masks))
        known = "labels" in row if masks is None else len(sounding) == 1 and sounding[0] < len(masks)
        if not known or float(content["waveform"].abs().max()) < SILENCE:
            continue
        images = content["images"]
        image = Image.fromarray(images[0 if masks is not None else len(images) // 2].numpy()).convert("RGBA")
        if masks is not None:
            mask = masks[sounding[0]].numpy()
            if float((mask > 127).mean()) < LEAST_AREA:
                continue
            image.putalpha(Image.fromarray(mask))
        found += 1
        captions = tuple(row["captions"])
        yield SingleObject(row["id"], captions, image, masks is not None, content["waveform"], row["licence"])


def _may_fit(row: dict[str, Any]) -> bool:
    """Whether a description does not speak of several sounding objects, and has a caption."""
    if not row["captions"]:
        return False
    if "sounding" in row:
        return len(row["sounding"]) == 1
    return len(row.get("labels", ())) <= 1  # none: its masks may say it


def _evenly(numbers: list[int], most: int) -> list[int]:
    """At most `most` of them, evenly spaced, in their order."""
    if len(numbers) <= most:
        return numbers
    return [numbers[at] for at in np.linspace(0, len(numbers) - 1, most).round().astype(int)]
