"""The road from AudioSet to table 1, as docs/reproduce.md has it, on made-up videos with weights of random numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sounding
from training.data.shards import Shards
from training.evaluate.items import read_items
from training.refine.manifest import read_manifest

from ..training.helpers import read_log
from .walk import UNCAPTIONED, walk
from .world import BENCHMARK, KINDS, PER_KIND

pytestmark = pytest.mark.slow
KEPT = PER_KIND * len(KINDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory after all commands of the page."""
    folder = tmp_path_factory.mktemp("road") / "world"
    walk(folder, print)
    return folder


def test_clips_are_kept_with_captions_and_split(world: Path) -> None:
    rows = read_manifest(world / "data" / "refined")
    dropped = Counter(row["dropped_by"] for row in rows)
    assert dropped == {"": KEPT, "labels": 2, "clips": 1, "lists": 1 + 4}  # gone, and those of AudioCaps
    kept = [row for row in rows if not row["dropped_by"]]
    assert Counter((row["category"], row["subset"]) for row in kept) == {
        (kind.category, subset): count for kind in KINDS for subset, count in (("train", PER_KIND - 1), ("test", 1))
    }
    for row in kept:
        (label,) = row["labels"]
        assert row["caption_by"] == ("labels" if label == UNCAPTIONED else "model")
        assert label.lower() in row["caption"].lower()
        assert row["audio_caption"]
        assert row["frame_captions"]
        assert 0 <= row["matching_score"] <= 1


def test_what_is_trained_on_is_what_was_kept(world: Path) -> None:
    rows = {row["id"]: row for row in read_manifest(world / "data" / "refined")}
    features = Shards(world / "data/refined/shards/features/train", ("id", "captions", "patches", "queries", "mean"))
    assert {features[number]["id"] for number in range(len(features))} == {
        name for name, row in rows.items() if row["subset"] == "train"
    }
    for number in range(len(features)):
        sample = features[number]
        assert sample["captions"] == [rows[sample["id"]]["caption"]]
        assert sample["patches"].shape[0] == 10  # frames
        assert sample["mean"].shape == (8, 256, 16)  # 10.24 s


def test_two_processes_train_grounding_and_unet(world: Path) -> None:
    logged = read_log(world / "runs" / "paper")
    assert [line["step"] for line in logged if "loss" in line] == [1]
    assert all(0 < line["loss"] < 10 for line in logged if "loss" in line)
    assert len([line for line in logged if "val_loss" in line]) == 1
    assert len(list((world / "runs" / "paper" / "previews").rglob("*.wav"))) == 3
    start = load_file(world / "models" / "full.safetensors")
    result = load_file(world / "runs" / "paper" / "paper.safetensors")
    frozen = [name for name in start if name.startswith(("patches.", "query.", "vae.", "vocoder."))]
    moved = [name for name in start if name.startswith("unet.") and not torch.equal(start[name], result[name])]
    assert frozen
    assert all(torch.equal(start[name], result[name]) for name in frozen)
    assert moved
    assert sounding.load(world / "runs/paper/paper.safetensors", device="cpu").config.generation.steps == 200
    assert (world / "dog.wav").stat().st_size > 2 * 10.24 * 16_000


@pytest.mark.parametrize(
    ("name", "clips", "systems"),
    [("audiocaps", BENCHMARK, ("ours-mask", "ours-text")), ("test", len(KINDS), ("ours-mask",))],
)
def test_table_1_has_a_row_for_the_trained_model(world: Path, name: str, clips: int, systems: tuple[str, ...]) -> None:
    count = len(read_items(world / "items" / name))
    assert clips // 2 < count <= clips  # those of the clips in which the segmenter finds an object
    report: dict[str, Any] = json.loads((world / "reports" / name / "report.json").read_text())
    assert tuple(system["name"] for system in report["systems"]) == systems
    for system in report["systems"]:
        assert system["pairs"] == count
        for figure in ("acc", "fad", "kl_audioldm_eval", "avc"):
            assert figure in system["figures"], figure
        assert system["figures"]["acc"]["count"] == count
    assert report["unknown_labels"] == []
    assert report["figures_by"]["classes"].startswith("PANNs")
    assert report["figures_by"]["embeddings"].startswith("VGGish")
    table = (world / "reports" / name / "table.md").read_text()
    assert "| ours-mask |" in table
    assert "| Ours (quoted) |" in table
    page = (world / "reports" / name / "index.html").read_text()
    assert "ours-mask" in page


def test_the_matching_model_is_measured(world: Path) -> None:
    report = json.loads((world / "reports" / "matching" / "report.json").read_text())
    assert report["clips"] == 4
    assert report["threshold"] == 0.6
