"""Commands whose work Ray's workers do: features, and sounds of items. The results are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.data.scene_source import SceneSource
from training.data.shard_format import ShardIndex
from training.data.shard_writer import make_shards
from training.starter.evaluate.items import ItemsSettings, write_items

from ...conftest import ROOT
from ..video_material import content

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def raw(stamps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes in four shards, one of which is cut off."""
    out = tmp_path_factory.mktemp("raw") / "scenes"
    make_shards(
        SceneSource(stamps_folder, scenes=8, split="train", seconds=1.28, size=160, captions=2), out, shard_size=2
    )
    broken = out / "shard-000002.tar"
    broken.write_bytes(broken.read_bytes()[:3000])
    return out


def run(*command: str) -> str:
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 0, result.output
    return result.output


def test_features_of_a_killed_run_on_ray_are_those_of_one_process(
    raw: Path, tiny_checkpoint: Path, cluster: str, tmp_path: Path
) -> None:
    command = ["prepare", "features", "--raw", str(raw), "--model", str(tiny_checkpoint), "--shard-size", "1", "--out"]
    run(*command, str(tmp_path / "one"), "--device", "cpu", "--threads", "1")
    out = tmp_path / "ray"
    on_ray = [*command, str(out), "--ray", "--address", cluster, "--most-workers", "2", "--cpus", "0.5"]
    process = subprocess.Popen([sys.executable, "-m", "training", *on_ray], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(out.glob("shard-*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "shards.json").exists()
    finished = {file.name: file.stat().st_ino for file in out.glob("shard-*.tar")}
    assert finished
    assert "6 samples in 6 shards" in run(*on_ray)
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
    said = run(*command, "--quiet", "--out", str(two), "--ray", "--address", cluster, "--most-workers", "2")
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
