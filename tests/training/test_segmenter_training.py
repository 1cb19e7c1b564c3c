"""Clicks on true masks, scenes to click on, and that the decoder learns."""

from __future__ import annotations

import copy
import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sounding.config import SegmenterConfig
from sounding.model import SoundingModel
from sounding.segment import Prepared, Prompt, Segmentation, load_segmenter
from training.data.scenes import background_photographs
from training.engine.loader import collate
from training.engine.loop import train
from training.engine.settings import LoopConfig
from training.starter.click_scenes import _frame, click_scene
from training.starter.cutouts import Cutouts, collect, cutouts_of, read_cutouts
from training.starter.evaluate.segment import Case, measure, overlap, overlaps, photograph_cases, scene_cases
from training.starter.segmenter import SegmenterItems, StarterSegmenterSettings
from training.tasks.clicks import first_click, jittered_box, next_click
from training.tasks.segmenter import SegmenterObjective, SegmenterSettings, _rough

from .conftest import draw_stamp


def rectangle(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def test_the_first_click_is_deepest_inside() -> None:
    mask = rectangle(40, 60, slice(10, 21), slice(20, 31))
    click = first_click(mask)
    assert (click.x, click.y, click.positive) == (25.5, 15.5, True)
    drawn = [first_click(mask, np.random.default_rng(i)) for i in range(200)]
    assert all(mask[int(one.y), int(one.x)] for one in drawn)
    offsets = np.array([[one.x - 25.5, one.y - 15.5] for one in drawn])
    assert 0.5 < offsets.std() < 11 / np.sqrt(12)  # nearer to the middle than evenly drawn ones
    at_edge = first_click(rectangle(20, 20, slice(0, 20), slice(0, 20)))
    assert abs(at_edge.x - 10) < 1
    assert abs(at_edge.y - 10) < 1
    with pytest.raises(ValueError, match="mask is empty"):
        first_click(np.zeros((4, 4), bool))


def test_the_next_click_goes_where_the_answer_is_most_wrong() -> None:
    mask = rectangle(50, 50, slice(10, 40), slice(10, 40))
    missed = mask & ~rectangle(50, 50, slice(10, 40), slice(10, 21))
    click = next_click(mask, missed)
    assert click.positive
    assert missed[int(click.y), int(click.x)] == 0
    assert mask[int(click.y), int(click.x)]
    spilled = mask | rectangle(50, 50, slice(0, 9), slice(0, 9)) | rectangle(50, 50, slice(41, 48), slice(0, 50))
    click = next_click(mask, spilled)
    assert not click.positive
    assert 41 <= click.y <= 48
    assert next_click(mask, mask).positive


def test_boxes_are_around_the_object() -> None:
    mask = rectangle(50, 80, slice(10, 30), slice(20, 60))
    assert jittered_box(mask, np.random.default_rng(0), share=0) == (20, 10, 60, 30)
    for seed in range(20):
        x0, y0, x1, y1 = jittered_box(mask, np.random.default_rng(seed), share=0.1)
        assert max(abs(x0 - 20), abs(x1 - 60)) <= 4
        assert max(abs(y0 - 10), abs(y1 - 30)) <= 2


# Every eighth object is held out, by its name's checksum.
HELD_OUT = next(f"ring{i}" for i in range(99) if zlib.crc32(f"household-ring{i}".encode()) % 8 == 0)
SEEN = next(f"block{i}" for i in range(99) if zlib.crc32(f"household-block{i}".encode()) % 8)


@pytest.fixture(scope="module")
def package(stamps_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stamps' package beside one with backgrounds."""
    import shutil

    root = tmp_path_factory.mktemp("packages")
    shutil.copytree(stamps_package / "usr", root / "usr")
    stamps = root / "usr/share/tuxpaint/stamps"
    for name in (HELD_OUT, SEEN, "haze", "thing_mirror"):
        picture = Image.new("RGBA", (90, 90), (30, 160, 60, 60 if name == "haze" else 255))
        (stamps / "household").mkdir(exist_ok=True)
        picture.save(stamps / "household" / f"{name}.png")
    (stamps / "symbols").mkdir()
    Image.new("RGBA", (90, 90), (0, 0, 0, 255)).save(stamps / "symbols" / "letter.png")
    folder = root / "usr/share/backgrounds/mate/nature"
    folder.mkdir(parents=True)
    for name in ("Dune.jpg", "Storm.jpg", "Flower.jpg"):
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (80, 120, 3), np.uint8)).save(folder / name)
    return root


def test_cutouts_are_what_does_not_sound_and_part_is_held_out(package, tmp_path, stamps_data) -> None:
    rows = collect(package, tmp_path / "cutouts")
    names = {(row.kind, row.name): row.held_out for row in rows}
    assert names[("object", f"household-{HELD_OUT}")]
    assert not names[("object", f"household-{SEEN}")]
    assert not any("haze" in name or "mirror" in name or "letter" in name for _, name in names)
    assert not any(name.endswith("-disc") for _, name in names), "it sounds, so it is a stamp already"
    assert (names[("background", "Dune")], names[("background", "Storm")]) == (True, False)
    assert ("background", "Flower") not in names
    assert all(row.licence for row in rows)
    seen = read_cutouts(tmp_path / "cutouts", held_out=False)
    held_out = read_cutouts(tmp_path / "cutouts", held_out=True)
    assert len(seen) + len(held_out) == sum(kind == "object" for kind, _ in names)
    with pytest.raises(FileNotFoundError, match="training starter cutouts"):
        read_cutouts(tmp_path, held_out=False)


def test_rectangles_are_no_outlines(stamps_data) -> None:
    data = copy.copy(stamps_data)
    disc, silent = draw_stamp("disc"), Image.new("RGBA", (20, 20))
    photograph = Image.new("RGBA", (20, 20), (1, 2, 3, 255))
    data.images, data.silent, data.backgrounds = [[disc, photograph], [photograph]], [silent], background_photographs()
    found = cutouts_of(data)
    assert found.cutouts == [disc, silent]
    assert found.photographs == data.backgrounds


@pytest.fixture(scope="module")
def objects(stamps_data) -> Cutouts:
    return Cutouts(stamps_data.cutouts, background_photographs()[:2])


def test_scenes_follow_from_their_number_and_hold_what_can_be_clicked(objects) -> None:
    for index in range(6):
        scene, again = click_scene(objects, index, 96), click_scene(objects, index, 96)
        assert scene.picture.shape == (96, 96, 3)
        assert np.array_equal(scene.picture, again.picture)
        assert np.array_equal(scene.masks, again.masks)
        assert ((scene.masks > 127).mean(axis=(1, 2)) >= 0.003).all()
    assert not np.array_equal(click_scene(objects, 0, 96).picture, click_scene(objects, 1, 96).picture)


def test_part_of_the_scenes_shows_an_object_as_closely_as_the_segmenter_looks_at_it(objects) -> None:
    """Half or so of them: a square of 1.25 to 2.2 of the object's sizes, so it is that much of the image."""
    rng = np.random.default_rng(1)
    masks = np.zeros((1, 300, 300), np.uint8)
    masks[0, 100:150, 180:280] = 255
    for _ in range(50):
        x, y, extent = _frame(masks, rng)
        assert 125 <= extent <= 220
        assert 0 <= x <= 300 - extent
        assert 0 <= y <= 300 - extent
        assert x <= 190  # the object may stick out a little
        assert x + extent >= 270
        assert y <= 105
        assert y + extent >= 145
    assert _frame(np.zeros((1, 64, 64), np.uint8), rng) == (0, 0, 64)


def test_a_second_look_knows_the_first_answer_roughly() -> None:
    logits = torch.randn(2, 96, 96)
    rough = _rough(logits)
    assert rough.shape == logits.shape
    assert float(rough.std()) < 0.5 * float(logits.std())
    torch.testing.assert_close(_rough(torch.full((1, 96, 96), 3.0)), torch.full((1, 96, 96), 3.0))


@pytest.fixture(scope="module")
def small_model(tiny_config) -> SoundingModel:
    torch.manual_seed(2)
    segmenter = SegmenterConfig(side=96, widths=(16, 16, 12), blocks=(1, 1, 1), key_width=8)
    return SoundingModel(dataclasses.replace(tiny_config, segmenter=segmenter)).requires_grad_(False)


def test_maps_from_the_cache_are_those_of_the_tower(objects, small_model, tmp_path) -> None:
    plain = SegmenterItems(objects, small_model, StarterSegmenterSettings(scenes=4))
    cached = SegmenterItems(objects, small_model, StarterSegmenterSettings(scenes=4, cache=str(tmp_path / "cache")))
    objective = SegmenterObjective(small_model, SegmenterSettings())
    losses = []
    for items in (plain, cached, cached):  # the second time they are read
        batch = collate([items.item(i, np.random.default_rng(i)) for i in range(2)])
        with torch.no_grad():
            losses.append(objective(batch)["loss"])
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 2
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
    assert torch.equal(losses[1], losses[2])


def test_the_decoder_learns_and_the_tower_stays(objects, small_model, tmp_path) -> None:
    before = {name: value.clone() for name, value in small_model.patches.state_dict().items()}
    settings = StarterSegmenterSettings(scenes=24, cache=str(tmp_path / "cache"), boxes=0.3)
    items, objective = SegmenterItems(objects, small_model, settings), SegmenterObjective(small_model, settings)
    batch = collate([items.item(i, np.random.default_rng(i)) for i in range(24)])

    def reached() -> dict[str, float]:
        with torch.no_grad():
            return {name: float(value) for name, value in objective(batch).items()}

    first = reached()
    train(objective, items, LoopConfig(batch=8, lr=8e-3, steps=70, warmup=5, precision="fp32"), tmp_path / "run")
    last = reached()
    assert last["loss"] < 0.75 * first["loss"]
    assert last["iou1"] > max(0.5, 2 * first["iou1"])
    assert all(torch.equal(value, before[name]) for name, value in small_model.patches.state_dict().items())
    segmenter = load_segmenter(model=small_model)
    cases = list(scene_cases(objects, background_photographs()[:2], 4))
    measured = measure(segmenter, cases)
    assert measured["objects"] == 4


def test_examples_serve_the_estimate(small_model) -> None:
    objective = SegmenterObjective(small_model, SegmenterSettings())
    assert objective(objective.example(torch.device("cpu")))["loss"].isfinite()


class Oracle:
    """Answers with what it was told, then with the truth."""

    name, module = "oracle", None

    def __init__(self, truth: np.ndarray):
        self.truth, self.asked = truth, []

    def prepare(self, image: torch.Tensor) -> Prepared:
        return Prepared((image.shape[1], image.shape[2]), {})

    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        self.asked.append(prompt)
        half = self.truth.copy()
        if len(prompt.positive) + len(prompt.negative) < 2:
            half[: half.shape[0] // 2] = False
        return Segmentation.of(torch.from_numpy(np.where(half, 5.0, -5.0)), 1.0)


def test_the_protocol_of_the_figures() -> None:
    truth = rectangle(40, 40, slice(10, 30), slice(10, 30))
    oracle, case = Oracle(truth), Case("square", torch.zeros(1, 40, 40, 3), truth)
    assert overlap(truth, truth) == 1
    assert overlaps(oracle, case, 2) == [0.5, 1.0]
    (first,), second = oracle.asked[0].positive, oracle.asked[1].positive[1]
    assert truth[int(first[1]), int(first[0])]
    assert second[1] < 20  # where the upper half was missed
    figures = measure(Oracle(truth), [case])
    assert figures["1 clicks"]["share >= 0.75"] == 0
    assert figures["2 clicks"]["share >= 0.85"] == 1


def test_photographs_are_found_with_their_masks(tmp_path) -> None:
    Image.new("RGB", (60, 40), (9, 9, 9)).save(tmp_path / "dog.jpg")
    mask = Image.fromarray(rectangle(20, 30, slice(5, 15), slice(5, 25)))
    mask.save(tmp_path / "dog_mask.png")
    row = {"file": "dog.jpg", "mask": "dog_mask.png", "click": [30, 20], "labels": ["dog"]}
    (tmp_path / "index.json").write_text(json.dumps([row]))
    (case,) = photograph_cases(tmp_path)
    assert (case.name, case.mask.shape) == ("dog_mask", (40, 60))
    oracle = Oracle(case.mask)
    overlaps(oracle, case, 1)
    assert oracle.asked[0].positive == ((30.5, 20.5),)
    assert 700 < case.mask.sum() < 900
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        list(photograph_cases(tmp_path / "none"))
