"""A second look at small objects: which part of the picture, and what it is good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sounding.encoders.patches import to_square
from sounding.segment import Prompt, load_segmenter
from sounding.segment import click as click_module
from sounding.segment.click import MOST_CROPS, ClickSegmenter, within
from sounding.segment.zoom import LEAST, MARGIN, MOST, zoom_frame
from training.tasks.segmenter import overlap

from ..conftest import ROOT

PHOTOGRAPHS = ROOT / "tests/photographs"


def selecting(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Tensor:
    """Logits [H, W] of an answer that selects these boxes (left, top, right, bottom)."""
    logits = torch.full(size, -5.0)
    for x0, y0, x1, y1 in boxes:
        logits[y0:y1, x0:x1] = 5.0
    return logits


def test_the_part_holds_the_clicked_object_with_some_room() -> None:
    size = (300, 400)
    object_, other = (100, 60, 220, 120), (300, 200, 390, 290)
    frame = zoom_frame(selecting(size, object_, other), Prompt(((150.0, 90.0),)), size)
    assert frame is not None
    x0, y0, x1, y1 = frame
    assert x1 - x0 == y1 - y0
    assert MARGIN * 120 <= x1 - x0 <= MARGIN * 120 + 2 * 25  # a step is 25 pixels
    assert x0 <= 100
    assert y0 <= 60
    assert x1 >= 220
    assert y1 >= 120
    assert x1 < 300  # the other object, which no click is on, does not count


def test_a_tiny_object_is_shown_with_its_surroundings_and_a_large_one_not_again() -> None:
    size = (400, 400)
    frame = zoom_frame(selecting(size, (395, 395, 400, 400)), Prompt(((397.0, 397.0),)), size)
    assert frame is not None
    assert frame[2:] == (400, 400)  # inside of the picture
    assert frame[2] - frame[0] >= LEAST * 400
    wide = round(MOST * 400 / MARGIN) + 2
    assert zoom_frame(selecting(size, (20, 20, 20 + wide, 60)), Prompt(((30.0, 30.0),)), size) is None


def test_the_part_holds_every_click_on_the_object_and_the_whole_box() -> None:
    size = (400, 400)
    nothing = torch.full(size, -5.0)
    frame = zoom_frame(nothing, Prompt(((50.0, 50.0), (200.0, 120.0))), size)
    assert frame is not None
    assert frame[0] <= 50
    assert frame[1] <= 50
    assert frame[2] >= 200
    assert frame[3] >= 120
    everywhere = selecting(size, (0, 0, 400, 400))
    frame = zoom_frame(everywhere, Prompt(box=(100.0, 100.0, 180.0, 200.0)), size)
    assert frame is not None  # a box says how large the object is, whatever the answer does
    assert frame[2] - frame[0] < 0.5 * 400


@pytest.mark.parametrize("size", [(64, 900), (900, 64), (33, 33), (1, 1)])
def test_any_shape_of_picture_has_parts_inside_of_it(size) -> None:
    logits = torch.randn(40, 40)
    for place in (0.0, 0.31, 1.0):
        frame = zoom_frame(logits, Prompt(((place * size[1], place * size[0]),)), size)
        if frame is not None:
            assert 0 <= frame[0] < frame[2] <= size[1]
            assert 0 <= frame[1] < frame[3] <= size[0]


def test_prompts_move_with_the_part() -> None:
    prompt = Prompt(((50.0, 60.0),), ((55.0, 65.0), (5.0, 5.0)), (45.0, 50.0, 70.0, 80.0))
    moved = within(prompt, (40, 40, 100, 100))
    assert moved == Prompt(((10.0, 20.0),), ((15.0, 25.0),), (5.0, 10.0, 30.0, 40.0))


def test_a_part_is_embedded_once_and_only_the_last_few_are_kept() -> None:
    segmenter = load_segmenter("starter")
    assert isinstance(segmenter, ClickSegmenter)
    prepared = segmenter.prepare(torch.rand(1, 300, 1200, 3))
    before = prepared.nbytes
    runs: list[int] = []
    segmenter.module.patches.tower.trunk.conv_stem.register_forward_hook(lambda *_: runs.append(1))
    boxes = [(180.0 + 80 * i, 100.0, 210.0 + 80 * i, 130.0) for i in range(MOST_CROPS + 3)]
    first = [segmenter.segment(prepared, Prompt(box=box)).logits for box in boxes]
    assert len(runs) == len(boxes)
    assert len(prepared.zoomed) == MOST_CROPS
    assert prepared.nbytes > before  # what a cache is told
    assert torch.equal(segmenter.segment(prepared, Prompt(box=boxes[-1])).logits, first[-1])
    assert len(runs) == len(boxes)
    assert torch.equal(segmenter.segment(prepared, Prompt(box=boxes[0])).logits, first[0])  # embedded again


def test_a_small_object_is_found_better_at_a_second_look(monkeypatch) -> None:
    """Photographs of one object each, shrunk into a corner of a large meadow of noise."""
    segmenter = load_segmenter("starter")
    gains = []
    for name in ("penguin", "horse", "bison", "toucan"):
        picture, mask = _in_a_corner(PHOTOGRAPHS / f"{name}.jpg", PHOTOGRAPHS / f"{name}_mask.png")
        rows, columns = mask.nonzero(as_tuple=True)
        middle = Prompt(((float(columns.float().median()), float(rows.float().median())),))
        closer = float(overlap(segmenter.segment(segmenter.prepare(picture), middle).mask[None] > 0.5, mask[None]))
        with monkeypatch.context() as patch:
            patch.setattr(click_module, "zoom_frame", lambda *_: None)
            gains.append(
                closer
                - float(overlap(segmenter.segment(segmenter.prepare(picture), middle).mask[None] > 0.5, mask[None]))
            )
    assert np.mean(gains) > 0.02


def _in_a_corner(photograph: Path, mask: Path) -> tuple[Tensor, Tensor]:
    """[1, 600, 600, 3] with the photograph in a quarter of each side, and where its object is."""
    shown = torch.from_numpy(np.asarray(Image.open(photograph).convert("RGB")) / np.float32(255))
    white = torch.from_numpy(np.asarray(Image.open(mask).convert("L")) / np.float32(255))
    picture = 0.35 + 0.05 * torch.rand(600, 600, 3)
    selected = torch.zeros(600, 600, dtype=torch.bool)
    picture[40:220, 40:220] = to_square(shown.movedim(-1, 0)[None], 180, "squeeze")[0].movedim(0, -1)
    selected[40:220, 40:220] = to_square(white[None, None], 180, "squeeze")[0, 0] > 0.5
    return picture[None].clamp(0, 1), selected
