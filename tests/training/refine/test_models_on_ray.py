"""Steps with models on Ray: the manifest is that of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.evaluate.models.classifier import Classifier, write_classifier
from training.matching.checkpoint import write_matching
from training.matching.encoders import MelPatches, open_visual
from training.matching.network import MatchingConfig, MatchingNetwork
from training.refine.manifest import read_manifest
from training.refine.pipeline import refine

from .material import settings_of

pytestmark = pytest.mark.usefixtures("one_thread")

# Further ones would each import torch, to look at a clip or two.
ONE_WORKER = {
    f"{step}__resources__workers": 1 for step in ("clips", "matching", "events", "captions", "rephrase", "shards")
}


@pytest.fixture(scope="module")
def names(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the stand-ins: a small classifier judges and tags, the starter sees, the namer captions."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("models") / "judge.safetensors"
    write_classifier(file, Classifier(4, width=4).eval(), ["Dog", "Guitar", "Rain", "Chime"])
    return {
        "shards__model": str(tiny_checkpoint),
        "split__test_hours": 0,
        "matching": f"{{scorer: names, sounds: {file}, threshold: 0.0, frames_per_second: 1.0}}",
        "events": f"{{model: {file}, keep: 0.01, threshold: 0.3, drop: [/m/music], spare: [/m/bell]}}",
        "captions": "{frames: names, frames_per_second: 1.0}",
    }


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a matching model of random weights, that drops some."""
    torch.manual_seed(0)
    visual, audio = open_visual(str(tiny_checkpoint)), MelPatches()
    sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "hidden": 8, "feedforward": 16}
    network = MatchingNetwork(MatchingConfig(visual=visual.config, audio=audio.config, seconds=2.0, **sizes)).eval()
    file = tmp_path_factory.mktemp("models") / "matching.safetensors"
    write_matching(file, network)
    return {"matching": f"{{model: {file}, visual: {tiny_checkpoint}, frames_per_second: 2.0, size: 48}}"}


def features(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.glob("shards/features/*/*.tar")}


@pytest.mark.parametrize("steps", ["names", "model"])
def test_scores_tags_captions_and_verdicts_are_those_of_one_process(
    steps: str, material: Path, cluster: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    changes = request.getfixturevalue(steps) | ONE_WORKER
    refine(settings_of(material, tmp_path / "one", **changes))
    refine(settings_of(material, tmp_path / "ray", **changes, engine__kind="ray", engine__address=cluster))
    one, ray = (read_manifest(tmp_path / out) for out in ("one", "ray"))
    assert len(one) == len(ray) == 13
    scored = 0
    for wanted, found in zip(one, ray, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                assert found[name] == pytest.approx(value, abs=1e-6), name
            else:
                assert found[name] == value, name
        scored += wanted["matching_score"] is not None
    assert scored >= 6
    assert features(tmp_path / "ray") == features(tmp_path / "one")
    assert bool(features(tmp_path / "one")) == (steps == "names")
    assert not any(row.get(f"{step}_error") for row in ray for step in ("matching", "events", "captions"))
