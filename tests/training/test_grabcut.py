"""GrabCut, which segmenters are compared with."""

from __future__ import annotations

import sys

import pytest
import torch

from sounding.segment import Prompt
from training.starter.evaluate.grabcut import GrabCutSegmenter


def test_grabcut_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match="GrabCut needs OpenCV, which is not installed"):
        GrabCutSegmenter()


def test_grabcut_cuts_a_square_out() -> None:
    pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 60, 80, 3, generator=generator) * 0.1 + torch.tensor([0.1, 0.6, 0.2])
    picture[:, 20:40, 30:60] = torch.rand(1, 20, 30, 3, generator=generator) * 0.1 + torch.tensor([0.8, 0.1, 0.1])
    truth = torch.zeros(60, 80, dtype=torch.bool)
    truth[20:40, 30:60] = True
    segmenter = GrabCutSegmenter()
    for prompt in (Prompt(((45.0, 30.0),)), Prompt(box=(25.0, 15.0, 66.0, 45.0))):
        found = segmenter.segment(segmenter.prepare(picture), prompt).mask > 0.5
        assert (found & truth).sum() / (found | truth).sum() > 0.95
