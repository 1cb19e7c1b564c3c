"""Masks that a segmenter adds to shards: of which objects, for which image, and what training makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from sounding.model import SoundingModel
from sounding.segment import Prepared, Prompt, Segmentation
from training.data import masks
from training.data.features import FeatureSource
from training.data.masks import MaskSource, distinct, snippets
from training.data.prepare import app
from training.data.shard_format import Sample, ShardIndex
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.source import Source
from training.tasks.grounded import GroundedItems, GroundedSettings

RED, BLUE, GREY = (200, 40, 40), (40, 60, 200), (120, 120, 120)
PLACES = {"red": (slice(8, 40), slice(6, 30)), "blue": (slice(40, 90), slice(60, 118))}


class Scenes(Source):
    """Clips of three frames; the middle one shows a red and a blue rectangle, the last clip nothing at all."""

    def __len__(self) -> int:
        return 3

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return f"clip-{position}"

    def make(self, position: int) -> Sample:
        frames = np.full((3, 96, 128, 3), GREY, np.uint8)
        if position < 2:
            frames[1][PLACES["red"]], frames[1][PLACES["blue"]] = RED, BLUE
        given = np.zeros((96, 128), np.uint8)
        given[10:20, 10:20] = 255
        return Sample(
            id=self.name(position),
            captions=("a red thing hums, and a blue thing rings",),
            licence="CC0",
            source="the test",
            seconds=1.28,
            labels=(4,),
            sounding=(0,) if position == 1 else None,
            waveform=np.random.default_rng(position).uniform(-0.3, 0.3, 20_480),
            images=tuple(frames),
            masks=(given,) if position == 1 else (),
        )


class ByColour:
    """Selects the rectangle that is clicked on or named; a click beside them selects all that is grey."""

    name, memory, module = "colours", 0, nn.Linear(1, 1)

    def prepare(self, image: Tensor) -> Prepared:
        return Prepared((image.shape[0], image.shape[1]), {"image": image})

    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        image = prepared.tensors["image"]
        if prompt.text:
            wanted = torch.tensor(RED if "red" in prompt.text else BLUE if "blue" in prompt.text else (0, 0, 0)) / 255
        else:
            ((x, y),) = prompt.positive
            wanted = image[int(y), int(x)]
        inside = (image - wanted).abs().amax(dim=-1) < 0.15
        if not inside.any():
            raise ValueError("there is nothing of that colour")
        return Segmentation.of(20.0 * inside.float() - 10, 0.9)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    make_shards(Scenes(), out, shard_size=2)
    return out


def overlap(mask: np.ndarray, place: tuple[slice, slice]) -> float:
    expected = np.zeros(mask.shape, bool)
    expected[place] = True
    inside = mask > 127
    return float((inside & expected).sum() / (inside | expected).sum())


@pytest.mark.parametrize("by_words", [False, True])
def test_objects_get_masks_and_all_else_stays(
    clips: Path, tmp_path: Path, by_words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_takes_words", lambda segmenter: by_words)
    index = make_shards(MaskSource(clips, ByColour()), tmp_path / "out", shard_size=2)
    assert index.settings["prompts"] == ("captions" if by_words else "points")
    assert (index.samples, index.masked) == (2, 2)
    assert [skip.why for skip in index.skipped] == ["colours finds no object in its image."]
    raw, made = (Shards(folder, ("id",)) for folder in (clips, tmp_path / "out"))
    before, after = raw.members(0), made.members(0)
    assert after["flac"] == before["flac"]
    assert after["0.jpg"] == before["1.jpg"]  # the middle frame, which the masks are of
    assert set(after) == {"json", "flac", "0.jpg", "mask.0.png", "mask.1.png"}
    found = made.only("masks")[0]["masks"].numpy()
    best = [max(overlap(mask, PLACES[name]) for mask in found) for name in ("red", "blue")]
    assert min(best) > 0.9
    assert made.members(1) == raw.members(1)  # had a mask already


def test_masks_are_what_mask_training_needs(clips: Path, tiny_model: SoundingModel, tmp_path: Path) -> None:
    make_shards(MaskSource(clips, ByColour()), tmp_path / "raw")
    make_shards(FeatureSource(tmp_path / "raw", tiny_model), tmp_path / "features")
    grounding = dataclasses.replace(tiny_model.config.grounding, mask_training=1.0)
    model = SoundingModel(dataclasses.replace(tiny_model.config, grounding=grounding))
    model.load_state_dict(tiny_model.state_dict())
    items = GroundedItems(tmp_path / "features", model, GroundedSettings())
    item = items.item(0, np.random.default_rng(0))
    assert item["by_mask"]
    assert 0.05 < float(item["coverage"].mean()) < 0.5


def test_captions_are_split_into_what_they_name() -> None:
    assert snippets(("A dog barks while people talk, and a car passes.", "a dog barks")) == [
        "A dog barks",
        "people talk",
        "a car passes",
        "a dog barks",
    ]
    assert snippets(()) == []


def test_the_better_of_two_masks_of_one_object_is_kept() -> None:
    whole, part, other = torch.zeros(3, 10, 10)
    whole[:6], part[:5], other[8:] = 1, 1, 1
    kept = distinct([(0.8, part), (0.9, whole), (0.7, other)])
    assert [float(mask.sum()) for mask in kept] == [60.0, 20.0]


def test_the_box_own_segmenter_finds_what_is_seen(clips: Path, tmp_path: Path) -> None:
    command = ["masks", "--shards", str(clips), "--out", str(tmp_path), "--sam", "starter", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert ShardIndex.read(tmp_path).masked == ShardIndex.read(tmp_path).samples
    found = Shards(tmp_path, ("masks",))[0]["masks"].numpy()
    assert max(overlap(mask, PLACES["blue"]) for mask in found) > 0.7
    again = CliRunner().invoke(app, [*command[:-4], "--sam", str(tmp_path / "none.pth"), "--device", "cpu"])
    assert again.exit_code == 1
    assert "is neither a file nor a folder" in again.output
