"""Clicks to masks, and which segmenter makes them: the parts of the click node that need no host."""

from __future__ import annotations

import gc
import importlib
import sys
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sounding
import sounding.checkpoint

ROOT = Path(__file__).parent.parent
STARTER_LABEL = "starter (in the box)"


@dataclass(frozen=True)
class Prompt:
    """As `sounding.segment.Prompt`."""

    positive: tuple[tuple[float, float], ...] = ()
    negative: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Segmentation:
    mask: Tensor
    score: float


class LikeColours:
    """Finds what has the colour of the clicked pixel: a stand-in with the segmenters' interface."""

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, image: Tensor) -> Tensor:
        self.prepared += 1
        return image[0]

    def segment(self, picture: Any, prompt: Prompt) -> Segmentation:
        picture = picture[0] if picture.ndim == 4 else picture
        (x, y), *_ = prompt.positive
        height, width = picture.shape[:2]
        colour = picture[min(int(y), height - 1), min(int(x), width - 1)]
        return Segmentation(((picture - colour).abs().amax(dim=-1) < 0.25).float(), 0.5)


class Cache:
    """As `sounding.segment.Cache`, for one picture."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Any] | None = None

    def prepare(self, segmenter: LikeColours, image: Tensor) -> Any:
        if self.kept is None or self.kept[0] is not image:
            self.kept = image, segmenter.prepare(image)
        return self.kept[1]


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """The pack under a made-up name, without what the host gives and with the stand-in segmenter."""

    def module(name: str, **values: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    opened: list[tuple[str, weakref.ref[LikeColours]]] = []

    def open_segmenter(name: str) -> LikeColours:
        handle = LikeColours()
        opened.append((name, weakref.ref(handle)))
        return handle

    small = LikeColours()
    module("clickpack")
    module("clickpack.nodes", __path__=[str(ROOT / "nodes")])
    module("clickpack.nodes.files", STARTER_LABEL=STARTER_LABEL)
    module("clickpack.nodes.segment_nodes", open_segmenter=open_segmenter)
    module("clickpack.sounding", __path__=[])
    module("clickpack.sounding.segment", Prompt=Prompt, Cache=Cache, load_segmenter=lambda name: small)
    monkeypatch.setitem(sys.modules, "clickpack.sounding.checkpoint", sounding.checkpoint)
    names = ("click_state", "click_masks", "click_segmenters")
    loaded = {name: importlib.import_module(f"clickpack.nodes.{name}") for name in names}
    yield types.SimpleNamespace(opened=opened, small=small, **loaded)
    for name in names:
        del sys.modules[f"clickpack.nodes.{name}"]


def two_squares(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """A picture [1, H, W, 3] with a red and a green rectangle, and where these are [H, W]."""
    picture = torch.zeros(1, height, width, 3)
    red, green = torch.zeros(height, width), torch.zeros(height, width)
    red[height // 8 : height // 2, width // 8 : width // 2] = 1
    green[height // 2 : -height // 8, width // 2 : -width // 8] = 1
    picture[0, ..., 0], picture[0, ..., 1] = red, green
    return picture, red, green


@pytest.mark.parametrize("size", [(64, 96), (1536, 2048), (3000, 600)])
def test_masks_are_the_objects_in_the_pictures_own_size(pack, size):
    picture, red, green = two_squares(*size)
    masks = pack.click_masks
    small = masks.working_picture(picture)
    assert max(small.shape[1:3]) == min(1024, max(size))
    assert small.shape[1] / small.shape[2] == pytest.approx(size[0] / size[1], rel=0.01)
    objects = [
        pack.click_state.ClickObject("green", positive=((size[1] * 0.75, size[0] * 0.75),)),
        pack.click_state.ClickObject("red", positive=((size[1] * 0.25, size[0] * 0.25),)),
    ]
    segmenter = LikeColours()
    made = masks.segment_objects(
        lambda prompt: segmenter.segment(small, prompt), objects, masks.sides(picture), masks.sides(small)
    )
    whole = masks.whole_masks(made, masks.sides(picture))
    assert whole.shape == (2, *size)
    for found, true in zip(whole > 0.5, (green > 0, red > 0), strict=True):
        assert (found & true).sum() / (found | true).sum() > 0.98


def test_all_that_was_clicked_reaches_the_segmenter_in_its_pixels(pack):
    state, heard = pack.click_state, []

    def segment(prompt: Prompt) -> Segmentation:
        heard.append(prompt)
        return Segmentation(torch.full((512, 1024), 2.0), 0.25)

    clicked = state.ClickObject(
        "rim", positive=((4096.0, 2048.0), (0.0, 0.0)), negative=((400.0, 200.0),), box=(4.0, 8.0, 4096.0, 2048.0)
    )
    (made,) = pack.click_masks.segment_objects(segment, [clicked], (4096, 2048), (1024, 512))
    assert heard == [Prompt(((1024.0, 512.0), (0.0, 0.0)), ((100.0, 50.0),), (1.0, 2.0, 1024.0, 512.0))]
    assert made.score == 0.25
    assert made.mask.max() == 1


def test_the_small_segmenter_looks_at_a_picture_once(pack):
    segmenters = pack.click_segmenters.ClickSegmenters(running=lambda: True)
    picture, red, _ = two_squares(64, 96)
    for _ in range(3):
        made = segmenters.on(STARTER_LABEL, picture)(Prompt(((24.0, 16.0),)))
        assert torch.equal(made.mask, red)
    assert pack.small.prepared == 1
    assert pack.opened == []


def test_a_sam_waits_for_the_queue(pack):
    running = True
    segmenters = pack.click_segmenters.ClickSegmenters(running=lambda: running)
    picture, red, _ = two_squares(64, 96)
    with pytest.raises(pack.click_segmenters.Busy):
        segmenters.on("sams/a.pth", picture)
    assert pack.opened == []
    running = False
    assert torch.equal(segmenters.on("sams/a.pth", picture)(Prompt(((24.0, 16.0),))).mask, red)
    segmenters.on("sams/a.pth", picture)
    assert [name for name, _ in pack.opened] == ["sams/a.pth"]


def test_one_sam_at_a_time_and_none_that_is_idle(pack, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(pack.click_segmenters.time, "monotonic", lambda: now)
    segmenters = pack.click_segmenters.ClickSegmenters(running=lambda: False)
    picture, *_ = two_squares(64, 96)
    segmenters.on("a", picture)
    segmenters.on("b", picture)
    gc.collect()
    assert [handle() is None for _, handle in pack.opened] == [True, False]
    assert segmenters.tidy() == pytest.approx(300)
    now += 299
    segmenters.on("b", picture)
    now += 299
    assert segmenters.tidy() == pytest.approx(1)
    now += 2
    assert segmenters.tidy() is None
    gc.collect()
    assert pack.opened[1][1]() is None
