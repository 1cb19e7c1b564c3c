"""What Ray's workers do: they keep to the threads and GPUs of their stages, and features, sounds of items, jobs,
scores, tags and captions are those of one process.

All in one file, so that they share a cluster, which takes longer to start than any of them computes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.cli.app import app as sounding_app
from training.__main__ import app
from training.cluster.engine import RayEngine
from training.cluster.settings import EngineSettings, Resources
from training.cluster.stage import StopRun
from training.data.scene_source import SceneSource
from training.data.shard_format import ShardIndex
from training.data.shard_writer import make_shards
from training.evaluate.models.classifier import Classifier, write_classifier
from training.matching.checkpoint import write_matching
from training.matching.encoders import MelPatches, open_visual
from training.matching.network import MatchingConfig, MatchingNetwork
from training.refine import pipeline
from training.refine.manifest import read_manifest
from training.refine.pipeline import refine
from training.refine.settings import MatchingSettings
from training.refine.steps import steps_of
from training.starter.evaluate.items import ItemsSettings, write_items

from ..conftest import ROOT
from .cluster.probes import COLUMNS, Keeps, NamesStep, Probe
from .refine.material import settings_of, write_material
from .video_material import content

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# Further ones would each import torch, to look at a clip or two.
ONE_WORKER = {
    f"{step}__resources__workers": 1 for step in ("clips", "matching", "events", "captions", "rephrase", "shards")
}


def run(*command: str) -> str:
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 0, result.output
    return result.output


def engine(address: str) -> RayEngine:
    return RayEngine(EngineSettings(address=address, block=1))


def test_each_worker_has_the_threads_and_gpus_of_its_stage(cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    stages = [Probe("alone"), Probe("first", gpus=0.5), Probe("second", gpus=0.5), Keeps(str(file))]
    came: list[int] = []
    engine(cluster).run(stages, COLUMNS, [{"id": "a"}, {"id": "b"}], 2, lambda done, count: came.append(done))
    assert came[-1] == 2
    wanted = []
    for name, visible in (("alone", ""), ("first", "0"), ("second", "0")):  # one GPU for both
        for number in (1, 2):  # in one process each
            wanted.append(f"{name}: 1 threads, GPUs {visible!r}, {number} rows, {os.getcwd()}")
    assert sorted(line.split(" ", 1)[1] for line in file.read_text().splitlines()) == sorted(wanted)


def test_gpus_that_are_not_there_are_refused_before_anything_runs(cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    with pytest.raises(StopRun, match=r"^many asks for 2 GPUs per worker, but .* set many\.gpus to 1 or less"):
        engine(cluster).run([Probe("few"), Probe("many", gpus=2), Keeps(str(file))], COLUMNS, [{"id": "a"}], 1)
    with pytest.raises(StopRun, match=r"does not fit into the 1 GPUs of the cluster \(one\.gpus=1, half\.gpus=0\.5\)"):
        engine(cluster).run([Probe("one", gpus=1), Probe("half", gpus=0.5)], COLUMNS, [{"id": "a"}], 1)
    assert not file.exists()


def test_features_of_a_killed_run_on_ray_are_those_of_one_process(
    stamps_folder: Path, tiny_checkpoint: Path, cluster: str, tmp_path: Path
) -> None:
    """Eight scenes in four shards, one of which is cut off."""
    raw = tmp_path / "scenes"
    scenes = SceneSource(stamps_folder, scenes=8, split="train", seconds=1.28, size=160, captions=2)
    make_shards(scenes, raw, shard_size=2)
    broken = raw / "shard-000002.tar"
    broken.write_bytes(broken.read_bytes()[:3000])
    command = ["prepare", "features", "--raw", str(raw), "--model", str(tiny_checkpoint), "--shard-size", "1", "--out"]
    run(*command, str(tmp_path / "one"), "--device", "cpu", "--threads", "1")
    out = tmp_path / "ray"
    on_ray = [*command, str(out), "--ray", "--address", cluster, "--cpus", "0.5", "--most-workers"]
    process = subprocess.Popen([sys.executable, "-m", "training", *on_ray, "1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(out.glob("shard-*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "shards.json").exists()
    finished = {file.name: file.stat().st_ino for file in out.glob("shard-*.tar")}
    assert finished
    assert "6 samples in 6 shards" in run(*on_ray, "2")
    index = ShardIndex.read(out)
    assert len(index.skipped) == 2
    assert all("shard-000002.tar" in skipped.why for skipped in index.skipped)
    assert content(out) == content(tmp_path / "one")


def test_sounds_of_items_on_ray_are_those_of_one_process(
    stamps_folder: Path, tiny_checkpoint: Path, cluster: str, tmp_path: Path
) -> None:
    items = write_items(
        stamps_folder, tmp_path / "items", ItemsSettings(per_object=0, pairs=2, backgrounds=1, seconds=0.64)
    )
    systems = ["--system", "ours-mask", "--system", "ours-text", "--steps", "1"]
    command = [
        "evaluate",
        "baselines",
        "--items",
        str(items),
        "--model",
        str(tiny_checkpoint),
        "--steps",
        "1",
        *systems,
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    run(*command, "--device", "cpu", "--quiet", "--out", str(one))
    (two / "ours-mask").mkdir(parents=True)
    (two / "ours-mask" / "settings.json").write_bytes((one / "ours-mask" / "settings.json").read_bytes())
    kept = two / "ours-mask" / "pair-00001.wav"
    kept.write_bytes(b"of an earlier run")
    said = run(*command, "--quiet", "--out", str(two), "--ray", "--address", cluster, "--most-workers", "1")
    assert "ours-mask: 3 of 3 items" in said
    assert "ours-text: 2 of 3 items" in said  # a background has no caption
    assert kept.read_bytes() == b"of an earlier run"
    kept.unlink()
    sounds = {file.relative_to(two): file.read_bytes() for file in two.rglob("*.wav")}
    assert len(sounds) == 4
    assert sounds == {file: (one / file).read_bytes() for file in sounds}
    failed = Path("ours-text") / "failed.json"
    assert json.loads((two / failed).read_text()) == json.loads((one / failed).read_text())
    assert sorted(os.listdir(two / "ours-text")) == sorted(os.listdir(one / "ours-text"))


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of models: a matching model of random weights, a small classifier that tags, the namer that captions."""
    sounds, matching = tmp_path / "sounds.safetensors", tmp_path / "matching.safetensors"
    write_classifier(sounds, Classifier(4, width=4).eval(), ["Dog", "Guitar", "Rain", "Chime"])
    torch.manual_seed(0)
    visual, audio = open_visual(str(tiny_checkpoint)), MelPatches()
    sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "hidden": 8, "feedforward": 16}
    network = MatchingNetwork(MatchingConfig(visual=visual.config, audio=audio.config, seconds=2.0, **sizes)).eval()
    write_matching(matching, network)
    seen = f"visual: {tiny_checkpoint}, frames_per_second: 2.0, size: 48"
    return {
        "shards__model": str(tiny_checkpoint),
        "split__test_hours": 0,
        "matching": f"{{model: {matching}, {seen}, threshold: 0.685}}",  # some are below it, none is near it
        "events": f"{{model: {sounds}, keep: 0.01, threshold: 0.3, drop: [/m/music], spare: [/m/bell]}}",
        "captions": "{frames: names, frames_per_second: 1.0}",
    }


def test_scores_tags_captions_and_verdicts_on_ray_are_those_of_one_process(
    models: dict[str, Any], cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matching is done by both scorers, in two steps of one run."""
    material, sounds = tmp_path / "material", tmp_path / "sounds.safetensors"
    write_material(material)
    names = MatchingSettings(scorer="names", sounds=str(sounds), frames_per_second=1.0, resources=Resources(workers=1))
    monkeypatch.setattr(
        pipeline, "steps_of", lambda *given: [(made := steps_of(*given))[0], NamesStep(names), *made[1:]]
    )
    changes = models | ONE_WORKER
    refine(settings_of(material, tmp_path / "one", **changes))
    refine(settings_of(material, tmp_path / "ray", **changes, engine__kind="ray", engine__address=cluster))
    one, ray = (read_manifest(tmp_path / out) for out in ("one", "ray"))
    assert len(one) == len(ray) == 13
    for wanted, found in zip(one, ray, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                assert found[name] == pytest.approx(value, abs=1e-6), name
            else:
                assert found[name] == value, name
    assert sum(row["matching_score"] is not None and row["names_score"] is not None for row in ray) >= 6
    assert any(row["dropped_by"] == "matching" for row in ray)
    assert features(tmp_path / "ray") == features(tmp_path / "one") != {}
    assert not any(row.get(f"{step}_error") for row in ray for step in ("names", "matching", "events", "captions"))


def features(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.glob("shards/features/*/*.tar")}


def test_jobs_on_ray_are_those_of_one_process(
    tiny_checkpoint: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.job_stage.ROWS", 1)  # so that both workers have some
    Image.new("RGB", (48, 48), (200, 60, 20)).save("image.png")
    lines = [{"image": "image.png", "seed": seed, "out": f"{seed}.wav"} for seed in range(3)]
    lines += [{"image": "missing.png", "out": "no.wav"}, {"image": "image.png", "out": "0.wav"}]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    short = ["--model", str(tiny_checkpoint), "--device", "cpu", "--steps", "1", "--seconds", "0.5"]
    alone = CliRunner().invoke(sounding_app, ["generate", "--jobs", "jobs.jsonl", "--out-dir", "one", *short])
    assert alone.exit_code == 3, alone.output
    command = ["jobs", "jobs.jsonl", "--out-dir", "two", *short, "--quiet"]
    on_ray = [*command, "--ray", "--address", cluster, "--most-workers", "2"]
    made = CliRunner().invoke(app, on_ray)
    assert made.exit_code == 3, made.output

    def results(text: str) -> list[dict[str, Any]]:
        found = [json.loads(line.replace("one/", "two/")) for line in text.splitlines()]
        return sorted(found, key=lambda result: result["line"])

    assert results(made.stdout) == results(alone.stdout)
    assert sorted(os.listdir("two")) == ["0.wav", "1.wav", "2.wav", "jobs.results.jsonl"]
    joined = results(Path("two", "jobs.results.jsonl").read_text())
    assert joined == results(Path("one", "jobs.results.jsonl").read_text())
    for name in ("0.wav", "1.wav", "2.wav"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()
    again = CliRunner().invoke(app, on_ray)
    assert [one["status"] for one in results(again.stdout)] == ["kept"] * 3 + ["failed"] * 2
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, "--ray is missing" in refused.stderr) == (1, True)
