"""Clicks to masks, and which segmenter makes them: the parts of the click node that need no host."""

from __future__ import annotations

import gc
import importlib
import queue
import random
import sys
import threading
import time
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
import sounding.segment.points

ROOT = Path(__file__).parents[2]
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

    def segment(self, image: Any, prompt: Prompt) -> Segmentation:
        image = image[0] if image.ndim == 4 else image
        (x, y), *_ = prompt.positive
        height, width = image.shape[:2]
        colour = image[min(int(y), height - 1), min(int(x), width - 1)]
        return Segmentation(((image - colour).abs().amax(dim=-1) < 0.25).float(), 0.5)


class Cache:
    """As `sounding.segment.Cache`, for one image."""

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
    module("clickpack.nodes.host", __path__=[])
    module("clickpack.nodes.host.folders", STARTER_LABEL=STARTER_LABEL)
    module("clickpack.nodes.segment", open_segmenter=open_segmenter)
    module("clickpack.sounding", __path__=[])
    monkeypatch.setitem(sys.modules, "clickpack.sounding.segment.points", sounding.segment.points)
    module("clickpack.sounding.segment", Prompt=Prompt, Cache=Cache, load_segmenter=lambda name: small)
    monkeypatch.setitem(sys.modules, "clickpack.sounding.checkpoint", sounding.checkpoint)
    names = ("state", "masks", "gate", "segmenters")
    loaded = {name: importlib.import_module(f"clickpack.nodes.click.{name}") for name in names}
    yield types.SimpleNamespace(opened=opened, small=small, **loaded)
    for name in names:
        del sys.modules[f"clickpack.nodes.click.{name}"]


def two_squares(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image [1, H, W, 3] with a red and a green rectangle, and where these are [H, W]."""
    image = torch.zeros(1, height, width, 3)
    red, green = torch.zeros(height, width), torch.zeros(height, width)
    red[height // 8 : height // 2, width // 8 : width // 2] = 1
    green[height // 2 : -height // 8, width // 2 : -width // 8] = 1
    image[0, ..., 0], image[0, ..., 1] = red, green
    return image, red, green


@pytest.mark.parametrize("size", [(64, 96), (1536, 2048), (3000, 600)])
def test_masks_are_the_objects_in_the_images_own_size(pack, size):
    image, red, green = two_squares(*size)
    masks = pack.masks
    small = masks.working_image(image)
    assert max(small.shape[1:3]) == min(1024, max(size))
    assert small.shape[1] / small.shape[2] == pytest.approx(size[0] / size[1], rel=0.01)
    objects = [
        pack.state.ClickObject("green", positive=((size[1] * 0.75, size[0] * 0.75),)),
        pack.state.ClickObject("red", positive=((size[1] * 0.25, size[0] * 0.25),)),
    ]
    segmenter = LikeColours()
    made = masks.segment_objects(
        lambda prompt: segmenter.segment(small, prompt), objects, masks.sides(image), masks.sides(small)
    )
    whole = masks.full_size_masks(made, masks.sides(image))
    assert whole.shape == (2, *size)
    for found, true in zip(whole > 0.5, (green > 0, red > 0), strict=True):
        assert (found & true).sum() / (found | true).sum() > 0.98


def test_all_that_was_clicked_reaches_the_segmenter_in_its_pixels(pack):
    state, heard = pack.state, []

    def segment(prompt: Prompt) -> Segmentation:
        heard.append(prompt)
        return Segmentation(torch.full((512, 1024), 2.0), 0.25)

    clicked = state.ClickObject(
        "rim", positive=((4096.0, 2048.0), (0.0, 0.0)), negative=((400.0, 200.0),), box=(4.0, 8.0, 4096.0, 2048.0)
    )
    (made,) = pack.masks.segment_objects(segment, [clicked], (4096, 2048), (1024, 512))
    assert heard == [Prompt(((1024.0, 512.0), (0.0, 0.0)), ((100.0, 50.0),), (1.0, 2.0, 1024.0, 512.0))]
    assert made.score == 0.25
    assert made.mask.max() == 1


class Queue:
    """As the host's: a worker takes what was put in, and `get_tasks_remaining` counts what runs or waits."""

    def __init__(self) -> None:
        self.items: queue.Queue[Any] = queue.Queue()
        self.left = 0

    def put(self, item: Any) -> None:
        self.left += 1
        self.items.put(item)

    def get(self, timeout: float | None = None) -> Any:
        try:
            return self.items.get(timeout=timeout)
        except queue.Empty:
            return None

    def get_tasks_remaining(self) -> int:
        return self.left


@pytest.fixture
def segmenters(pack):
    return pack.segmenters.ClickSegmenters(pack.gate.QueueGate(Queue()))


def test_the_small_segmenter_looks_at_an_image_once_and_waits_for_nothing(pack):
    host = Queue()
    host.put("a workflow")
    segmenters = pack.segmenters.ClickSegmenters(pack.gate.QueueGate(host))
    image, red, _ = two_squares(64, 96)
    for _ in range(3):
        with segmenters.on(STARTER_LABEL, image) as segment:
            assert torch.equal(segment(Prompt(((24.0, 16.0),))).mask, red)
    assert pack.small.prepared == 1
    assert pack.opened == []


def test_a_sam_waits_for_the_queue(pack):
    host = Queue()
    segmenters = pack.segmenters.ClickSegmenters(pack.gate.QueueGate(host))
    image, red, _ = two_squares(64, 96)
    host.put("a workflow")
    with pytest.raises(pack.gate.Busy), segmenters.on("sams/a.pth", image):
        pass
    assert pack.opened == []
    host.left = 0
    for _ in range(2):
        with segmenters.on("sams/a.pth", image) as segment:
            assert torch.equal(segment(Prompt(((24.0, 16.0),))).mask, red)
    assert [name for name, _ in pack.opened] == ["sams/a.pth"]


def test_one_sam_at_a_time_and_none_that_is_idle(pack, segmenters, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(pack.segmenters.time, "monotonic", lambda: now)
    image, *_ = two_squares(64, 96)
    for name in ("a", "b"):
        with segmenters.on(name, image):
            pass
    gc.collect()
    assert [handle() is None for _, handle in pack.opened] == [True, False]
    assert segmenters.tidy() == pytest.approx(300)
    now += 299
    with segmenters.on("b", image):
        pass
    now += 299
    assert segmenters.tidy() == pytest.approx(1)
    now += 2
    with segmenters._gate.alone():
        assert segmenters.tidy() == 1, "it went while something else was at work"
    assert segmenters.tidy() is None
    gc.collect()
    assert pack.opened[1][1]() is None


def test_workflows_and_clicks_never_work_at_once(pack):
    """A worker as the host's and three threads that click, over and over; what they do takes a moment each."""
    host = Queue()
    gate = pack.gate.QueueGate(host)
    inside: list[str] = []
    overlaps: list[list[str]] = []
    put, answered, busy = 0, 0, 0
    stop, done = threading.Event(), threading.Event()

    def work(name: str) -> None:
        inside.append(name)
        time.sleep(0.0005)
        if len(inside) > 1:
            overlaps.append(list(inside))
        inside.remove(name)

    def worker() -> None:
        while not (stop.is_set() and host.items.empty()):
            if host.get(timeout=0.01) is not None:
                work("workflow")
                host.left -= 1
            work("tidying up")
        host.get(timeout=0)
        done.set()

    def click() -> None:
        nonlocal answered, busy
        while not done.is_set():
            try:
                with gate.alone():
                    work("click")
                answered += 1
            except pack.gate.Busy:
                busy += 1

    threads = [threading.Thread(target=worker, daemon=True), *(threading.Thread(target=click) for _ in range(3))]
    for thread in threads:
        thread.start()
    pauses, end = random.Random(0), time.monotonic() + 120
    while (put < 200 or min(answered, busy) < 10) and time.monotonic() < end:
        if host.left < 2:
            host.put("a workflow")
            put += 1
        time.sleep(pauses.random() * 0.004)
    stop.set()
    for thread in threads:
        thread.join(120)
    assert done.is_set()
    assert overlaps == []
    assert answered >= 10
    assert busy >= 10


def test_a_click_that_fails_lets_workflows_on(pack):
    host = Queue()
    gate = pack.gate.QueueGate(host)
    with pytest.raises(RuntimeError), gate.alone():
        raise RuntimeError
    host.put("a workflow")
    assert host.get() == "a workflow"
    host.left = 0
    with pytest.raises(pack.gate.Busy), gate.alone():
        pass  # the worker did not come back for more yet
    assert host.get(timeout=0) is None
