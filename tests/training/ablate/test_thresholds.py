"""What thresholds of audio-visual matching keep of a collection (table 5), with scores that are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.config import SoundingConfig
from sounding.model import SoundingModel
from training.data.shards import DESCRIBED, Shards
from training.recipe import read_recipe
from training.starter.ablate import thresholds
from training.starter.ablate.rows import COLLECTED, Cell, chosen_rows
from training.starter.ablate.run import Ablations
from training.starter.ablate.settings import AblationSettings
from training.starter.ablate.thresholds import Collection, sounds_of

CLIPS = 8


class FakeMatcher:
    """Scores 0.1, 0.2, ... in the order of asking, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def score(self, frames: Tensor, waveform: Tensor, rate: int) -> float:
        self.asked.append((frames, waveform))
        return len(self.asked) / 10


@pytest.fixture(scope="module")
def made(
    stamps_folder: Path, tiny_config: SoundingConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Collection, FakeMatcher]:
    folder, matcher = tmp_path_factory.mktemp("collection"), FakeMatcher()
    file = folder / "matching.safetensors"
    file.write_bytes(b"made up")
    collection = Collection(folder / "out", file, CLIPS)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds.Matcher, "open", lambda *_: matcher)
        collection.make(stamps_folder, SoundingModel(tiny_config))
    return collection, matcher


def test_half_of_the_clips_have_one_anothers_sounds() -> None:
    heard = sounds_of([f"collection-{number}" for number in range(41)])
    assert sorted(heard) == list(range(41))
    assert sum(other != clip for clip, other in enumerate(heard)) == 20
    assert heard != sounds_of([f"collection-{number}" for number in range(42)])[:41]


def test_clips_are_scored_with_the_sounds_that_they_have(made: tuple[Collection, FakeMatcher]) -> None:
    collection, matcher = made
    clips = Shards(collection.out / "clips", ("id", "waveform", "images"))
    for clip, (other, (frames, sound)) in enumerate(zip(sounds_of(clips.ids()), matcher.asked, strict=True)):
        assert torch.equal(frames, clips[clip]["images"])
        assert torch.equal(sound, clips[other]["waveform"])


def test_generators_learn_what_is_heard_from_what_is_seen(made: tuple[Collection, FakeMatcher]) -> None:
    """A clip's own middle frame, with the sound, the captions and the labels of the clip that is heard."""
    collection, _ = made
    clips = Shards(collection.out / "clips", (*DESCRIBED, "waveform", "images"))
    cut = Shards(collection.out / "cut", (*DESCRIBED, "waveform", "images"))
    heard = sounds_of(clips.ids())
    foreign = next(clip for clip, other in enumerate(heard) if clip != other)
    row, seen, other = cut[foreign], clips[foreign], clips[heard[foreign]]
    assert row["id"] == seen["id"]
    assert (row["captions"], row["labels"]) == (other["captions"], other["labels"])
    samples = len(row["waveform"])
    assert row["seconds"] == pytest.approx(samples / 16_000)
    start = (len(other["waveform"]) - samples) // 2
    assert torch.allclose(row["waveform"], other["waveform"][start : start + samples], atol=1e-4)
    assert (row["images"].float() - seen["images"][10:11].float()).abs().mean() < 4  # JPEG once more


def test_thresholds_keep_what_scores_say(made: tuple[Collection, FakeMatcher]) -> None:
    collection, _ = made
    assert collection.is_made()
    every = Shards(collection.out / "features", ("id", "mean", "frames"))
    heard = sounds_of(every.ids())
    kept = collection.kept()
    assert list(kept) == list(COLLECTED)
    for threshold in (0.0, 0.4, 0.6, 0.8):
        wanted = [clip for clip in range(CLIPS) if (clip + 1) / 10 >= threshold]
        found = Shards(collection.features(f"threshold_{threshold:g}"), ("id", "mean", "frames"))
        assert found.ids() == [every[clip]["id"] for clip in wanted]
        assert torch.equal(found[-1 + len(wanted)]["mean"], every[wanted[-1]]["mean"])
        figures = kept[f"threshold_{threshold:g}"]
        assert figures["clips"] == len(wanted)
        assert figures["hours"] == pytest.approx(len(wanted) * 5 / 3600)
        assert figures["pure"] == pytest.approx(np.mean([heard[clip] == clip for clip in wanted]))
    assert kept["true_pairs"]["pure"] == 1
    assert kept["true_pairs"]["clips"] == CLIPS / 2


def test_scores_of_another_network_are_refused(
    made: tuple[Collection, FakeMatcher], stamps_folder: Path, tiny_config: SoundingConfig
) -> None:
    collection, _ = made
    other = collection.matching.with_name("other.safetensors")
    other.write_bytes(b"another")
    with pytest.raises(ValueError, match="scores of another matching network"):
        dataclasses.replace(collection, matching=other).make(stamps_folder, SoundingModel(tiny_config))


def test_rows_of_thresholds_need_a_matching_network(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"sound_query": {"batch": 1, "lr": 0.1}, "judge": {"loop": {"batch": 1, "lr": 0.1}}}
    rows = chosen_rows(["ours", "threshold_0.6"])
    (tmp_path / "plan.yaml").write_text(json.dumps(chosen), encoding="utf-8")
    settings = read_recipe(tmp_path / "plan.yaml", AblationSettings)
    without = Ablations(tmp_path, None, tmp_path, settings, rows)
    assert without.cells == [Cell("ours")]
    assert without.collection is None
    having = dataclasses.replace(without, matching=tmp_path / "matching.safetensors")
    assert having.cells == [Cell("ours"), Cell("threshold_0.6")]
    assert having.recipe("threshold_0.6", 2).data.shards == str(tmp_path / "collection" / "threshold_0.6")
    assert having.recipe("threshold_0.6", 2).loop == having.recipe("ours", 2).loop
    assert "clips and their scores" in [work.name for work in having.work()]
