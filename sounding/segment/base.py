"""What all segmenters share: an image is prepared once, then every prompt costs the decoder alone."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..encoders.patches import check_image
from .prompt import Prompt

CACHE_COUNT, CACHE_BYTES = 8, 512 * 2**20


Frame = tuple[int, int, int, int]  # left, top, right and bottom of a part of an image, in pixels


@dataclass(frozen=True)
class Prepared:
    """An image as one segmenter embeds it. Its tensors are on the CPU: no device's memory is held by them.

    `zoomed` are the last few parts of it that the segmenter zoomed in on, embedded likewise.
    """

    size: tuple[int, int]  # height and width of the image, in pixels
    tensors: dict[str, Tensor]
    zoomed: dict[Frame, Prepared] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        own = sum(value.numel() * value.element_size() for value in self.tensors.values())
        # A list, since another thread may be adding to it.
        return own + sum(part.nbytes for part in list(self.zoomed.values()))


@dataclass(frozen=True)
class Segmentation:
    """One object, on the CPU."""

    mask: Tensor  # [H, W] 0..1 at the image's size, the sigmoid of the logits
    logits: Tensor  # [H, W] as the model gives them, resized to the image
    score: float  # how good the model believes the mask to be, 0..1

    @classmethod
    def of(cls, logits: Tensor, score: float) -> Segmentation:
        """From logits [H, W] of any device and precision."""
        logits = logits.detach().float().cpu()
        return cls(logits.sigmoid(), logits, float(score))


class Segmenter(Protocol):
    """Any backend."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The weights, for whoever moves them between devices; None has none."""
        ...

    @property
    def memory(self) -> int:
        """Bytes that preparing an image takes beside the weights, where these are: a generous bound."""
        ...

    def prepare(self, image: Tensor) -> Prepared:
        """Embed an image [H, W, 3] or [1, H, W, 3], 0..1, once.

        Raises:
            ValueError: not one image.
        """
        ...

    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """The object that a prompt selects in an image that this very segmenter prepared.

        Raises:
            ValueError: a prompt that this segmenter cannot use; see `Prompt.check`.
        """
        ...


def one_image(image: Tensor) -> Tensor:
    """An image [1, H, W, 3] float 0..1.

    Raises:
        ValueError: not an image, or several.
    """
    image = check_image(image)
    if len(image) != 1:
        raise ValueError(f"There are {len(image)} images, but one is expected; segment them one by one.")
    return image.clamp(0, 1)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are now: hosts move them."""
    return next(module.parameters()).device


class Cache:
    """The images last prepared, by content: the same pixels are embedded once, whatever tensor they come in.

    Bounded by count and by bytes; the least lately used go first. May be shared by threads and segmenters, and
    keeps no segmenter alive.
    """

    def __init__(self, count: int = CACHE_COUNT, size: int = CACHE_BYTES):
        if count < 1 or size < 1:
            raise ValueError(f"The cache got count {count} and size {size}, but 1 or more are expected; give those.")
        self.count, self.size = count, size
        self._kept: OrderedDict[tuple[weakref.ref[Segmenter], bytes], Prepared] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        with self._lock:
            return sum(prepared.nbytes for prepared in self._kept.values())

    def prepare(self, segmenter: Segmenter, image: Tensor) -> Prepared:
        """`segmenter.prepare(image)`, or what it gave for the same image before."""
        image = one_image(image)
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        digest.update(image.cpu().contiguous().numpy().data.cast("B"))
        key = (weakref.ref(segmenter, self._forget), digest.digest())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        prepared = segmenter.prepare(image)
        with self._lock:
            if prepared.nbytes <= self.size:
                self._kept[key] = prepared
                self._kept.move_to_end(key)
            while len(self._kept) > self.count or self.nbytes > self.size:
                self._kept.popitem(last=False)
        return prepared

    def clear(self) -> None:
        """Give all memory back."""
        with self._lock:
            self._kept.clear()

    def _forget(self, gone: weakref.ref[Segmenter]) -> None:
        with self._lock:
            for key in [key for key in self._kept if key[0] is gone]:
                del self._kept[key]
