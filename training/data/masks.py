"""Masks of the objects in raw shards that have none, by a segmenter: what `grounding.mask_training` trains on.

The paper's ablation with masks in training (table 3, vi) does not say how its masks were prompted. Where its masks come
from captions (appendix C), the caption is split into snippets that each guide SAM; the same is done here with a
segmenter that understands words (SAM 3). One that takes points alone (SAM, SAM 2, the one in the box) is prompted with
a grid of points, and the masks of all distinct objects with high scores are taken. A clip of several frames keeps the
middle one, so that its image and its masks belong together.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.segment import Prompt, Segmenter, load_segmenter
from sounding.segment.sam3 import Sam3Segmenter

from .shard_folders import Folders
from .shard_format import Sample, known_of
from .shards import Shards
from .source import Source, hash_json

GRID = 4  # points per side
LEAST_SCORE = 0.7  # of a mask at a point; both SAM's and the click decoder's scores run from 0 to 1
LEAST_AREA, MOST_AREA = 0.002, 0.5  # share of the image: specks, and at points what is behind the objects
MOST_OVERLAP = 0.5  # intersection over union, above which two masks are of one object
MOST_OBJECTS = 8
# Between the things that a caption names: "a dog barks while people talk, and a car passes".
BETWEEN = re.compile(
    r"[,;.]|\b(?:and then|followed by|in the background|and|then|while|as|with|over|before|after)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class MaskedSample(Sample):
    """A sample whose sound and image are copied unchanged, as members of its tar: `copied`."""

    copied: dict[str, bytes] = field(default_factory=dict)

    def members(self) -> dict[str, bytes]:
        """See `Sample.members`."""
        own = super().members()
        return {"json": own.pop("json"), **self.copied, **own}

    @property
    def masked(self) -> bool:
        """See `Sample.masked`."""
        return super().masked or any(name.startswith("mask.") for name in self.copied)


@dataclass(frozen=True)
class OpenMasks:
    """Opens a `MaskSource` in any process: folders of raw shards, and the segmenter from its file."""

    raw: tuple[str, ...]
    segmenter: str

    def __call__(self, device: str) -> MaskSource:
        """The source, its segmenter on a device.

        Raises:
            ValueError, OSError: the segmenter's file or the raw shards cannot be read.
        """
        return MaskSource(self.raw, load_segmenter(self.segmenter, device=device))


class MaskSource(Source):
    """The samples of raw shards with masks; those that have masks already stay as they are.

    Args:
        raw: folders of raw shards with images.
        segmenter: loaded; it runs in this process.

    Raises:
        ValueError: not a folder of raw shards.
    """

    def __init__(self, raw: Folders, segmenter: Segmenter):
        self.raw = Shards(raw, ("id", "captions", "licence", "source", "seconds"), optional=("labels", "sounding"))
        self.images = self.raw.only("images")
        self.segmenter, self.by_words = segmenter, _takes_words(segmenter)

    def __len__(self) -> int:
        return len(self.raw)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        index = self.raw.index
        return {
            "from": "masks",
            "prompts": "captions" if self.by_words else "points",
            "segmenter": _fingerprint(self.segmenter),
            "raw": index.settings,
            "inputs": hash_json((shard.name, shard.bytes, shard.offsets) for shard in index.shards),
        }

    def name(self, position: int) -> str:
        """See Source."""
        return f"sample {position}"

    def make(self, position: int) -> Sample:
        """See Source. Labels of a clip are dropped, since they do not tell which of its objects they belong to."""
        row, members = self.raw[position], self.raw.members(position)
        copied = {name: data for name, data in members.items() if name != "json"}
        known = known_of(row)
        if any(name.startswith("mask.") for name in copied):
            return MaskedSample(**known, copied=copied)
        images = self.images[position]["images"]
        middle = len(images) // 2
        frames = {name for name in copied if name.endswith(".jpg")}
        copied = {name: data for name, data in copied.items() if name not in frames} | {
            "0.jpg": copied[f"{middle}.jpg"]
        }
        masks = self.find(images[middle] / 255, known["captions"])
        if not masks:
            raise ValueError(f"{self.segmenter.name} finds no object in its image.")
        known = {name: value for name, value in known.items() if name not in ("labels", "sounding")}
        return MaskedSample(**known, masks=tuple(masks), copied=copied)

    def find(self, image: Tensor, captions: tuple[str, ...]) -> list[np.ndarray]:
        """Masks [H, W] uint8 of the objects in an image [H, W, 3], 0..1: those that its captions name or, by points,
        all with high scores.
        """
        prepared = self.segmenter.prepare(image)
        height, width = prepared.size
        if self.by_words:
            prompts = [Prompt(text=words) for words in snippets(captions)]
        else:
            steps = (np.arange(GRID) + 0.5) / GRID
            prompts = [Prompt(positive=((float(x * width), float(y * height)),)) for y in steps for x in steps]
        found: list[tuple[float, Tensor]] = []
        for prompt in prompts:
            try:
                answer = self.segmenter.segment(prepared, prompt)
            except ValueError:  # the words name nothing in this image
                continue
            area = float((answer.mask > 0.5).float().mean())
            if area >= LEAST_AREA and (self.by_words or (area <= MOST_AREA and answer.score >= LEAST_SCORE)):
                found.append((answer.score, answer.mask))
        return [(mask * 255).round().to(torch.uint8).numpy() for mask in distinct(found)[:MOST_OBJECTS]]


def snippets(captions: tuple[str, ...]) -> list[str]:
    """What captions name, one phrase per thing, each once and in their order."""
    parts = (part.strip() for caption in captions for part in BETWEEN.split(caption))
    return list(dict.fromkeys(part for part in parts if part))


def distinct(found: list[tuple[float, Tensor]]) -> list[Tensor]:
    """Masks [H, W] from the best scored on, without those that overlap a better one."""
    kept: list[Tensor] = []
    for _, mask in sorted(found, key=lambda pair: -pair[0]):
        inside = mask > 0.5
        overlaps = (float((inside & (one > 0.5)).sum() / (inside | (one > 0.5)).sum()) for one in kept)
        if all(overlap <= MOST_OVERLAP for overlap in overlaps):
            kept.append(mask)
    return kept


def _takes_words(segmenter: Segmenter) -> bool:
    return isinstance(segmenter, Sam3Segmenter) and segmenter.detector is not None


def _fingerprint(segmenter: Segmenter) -> str:
    """SHA-256 of the segmenter's class and weights."""
    total = hashlib.sha256(type(segmenter).__name__.encode())
    if segmenter.module is not None:
        for name, value in sorted(segmenter.module.state_dict().items()):
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
