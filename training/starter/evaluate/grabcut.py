"""GrabCut (Rother et al. 2004) through OpenCV, where it is installed: nothing learnt, for comparison.

Alone it knows a click by colour only. `GrabCutSegmenter(first)` lets another segmenter answer first and then moves
that answer's edges by colour.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sounding.segment.base import Prepared, Segmentation, Segmenter, one_image
from sounding.segment.prompt import Prompt

NEAR = 0.15  # what lies within this share of the longer side of a click may be the object
SURE = 4.0  # a hard mask as logits: 98 % sure
ROUNDS = 5


class GrabCutSegmenter:
    """Points and a box."""

    def __init__(self, first: Segmenter | None = None):
        """Look for OpenCV.

        Raises:
            ValueError: it is not installed.
        """
        try:
            import cv2  # type: ignore[import-not-found]
        except ImportError:
            raise ValueError(
                "GrabCut needs OpenCV, which is not installed; run `pip install opencv-python-headless`, or use the "
                "starter's segmenter."
            ) from None
        self.cv2: Any = cv2
        self.first = first
        self.name = f"{first.name} and GrabCut" if first else "GrabCut"
        self.module: nn.Module | None = first.module if first else None

    @property
    def memory(self) -> int:
        """See `Segmenter.memory`."""
        return self.first.memory if self.first else 0

    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`."""
        image = one_image(image)
        pixels = (image[0] * 255).round().to(torch.uint8).cpu()
        tensors = self.first.prepare(image).tensors if self.first else {}
        return Prepared((image.shape[1], image.shape[2]), {**tensors, "pixels": pixels})

    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`."""
        prompt.check(prepared.size, self.name)
        cv2, pixels = self.cv2, np.ascontiguousarray(prepared.tensors["pixels"].numpy())
        rest = {name: value for name, value in prepared.tensors.items() if name != "pixels"}
        if self.first:
            answer = self.first.segment(dataclasses.replace(prepared, tensors=rest), prompt)
            labels, score = self._of_answer(answer.mask.numpy()), answer.score
        else:
            labels, score = self._of_prompt(prompt, prepared.size), 0.0
        height, width = prepared.size
        for points, label in ((prompt.positive, cv2.GC_FGD), (prompt.negative, cv2.GC_BGD)):
            for x, y in points:
                cv2.circle(labels, (int(x), int(y)), max(1, max(height, width) // 100), int(label), -1)
        known = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
        if known.any() and not known.all():
            models = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(pixels[..., ::-1].copy(), labels, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
        found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
        return Segmentation.of(torch.from_numpy(np.where(found, SURE, -SURE).astype(np.float32)), score)

    def _of_prompt(self, prompt: Prompt, size: tuple[int, int]) -> np.ndarray:
        """[H, W] uint8 labels to begin with."""
        cv2 = self.cv2
        if prompt.box is not None:
            labels = np.full(size, cv2.GC_BGD, np.uint8)
            x0, y0, x1, y1 = (round(side) for side in prompt.box)
            labels[y0:y1, x0:x1] = cv2.GC_PR_FGD
            return labels
        labels = np.full(size, cv2.GC_PR_BGD, np.uint8)
        for x, y in prompt.positive:
            cv2.circle(labels, (int(x), int(y)), round(NEAR * max(size)), int(cv2.GC_PR_FGD), -1)
        return labels

    def _of_answer(self, mask: np.ndarray) -> np.ndarray:
        """[H, W] uint8 labels: sure inside, sure outside, and a band between that colour decides."""
        cv2 = self.cv2
        labels = np.where(mask > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[mask > 0.97], labels[mask < 0.03] = cv2.GC_FGD, cv2.GC_BGD
        return labels
