"""Shards made by an engine's workers: the bytes of any other run, and what happens where one cannot be made.

The engine is the local one; `test_on_ray.py` has the same on Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from training.__main__ import app
from training.cluster.settings import EngineSettings, Resources
from training.cluster.stage import StopRun
from training.data.shard_format import Sample, Skipped
from training.data.shard_stage import ByEngine, ShardStage, describe
from training.data.shard_writer import make_shards
from training.data.source import Source

from .video_material import content


@dataclass
class Tones(Source):
    """Five tones in shards of two, one of them broken; `fails` comes in place of the third."""

    fails: BaseException | None = None
    length: int = 1000

    def __len__(self) -> int:
        return 5

    def settings(self) -> dict[str, Any]:
        return {"length": self.length}

    def name(self, position: int) -> str:
        return f"tone-{position}"

    def make(self, position: int) -> Sample:
        if position == 1:
            raise ValueError("It is broken.")
        sound = np.sin(np.arange(self.length) * 0.01 * (position + 1), dtype=np.float32)
        return Sample(self.name(position), (), "CC0", "the test", self.length / 16_000, waveform=sound)

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        for number in range(first, last):
            if number == 2 and self.fails is not None:
                raise self.fails
            yield from super().samples(number, number + 1)


def by_engine(there: Source, out: Path) -> ByEngine:
    """By the local engine, whose worker finds the source `there`."""
    resources = Resources(batch=1)
    stage = ShardStage("tones", lambda device: there, "cpu", out, 2, describe(Tones()), resources)
    return ByEngine(EngineSettings(kind="local"), stage)


def test_an_engine_makes_the_same_shards(tmp_path: Path) -> None:
    make_shards(Tones(), tmp_path / "one", shard_size=2)
    seen: list[tuple[int, int]] = []
    index = make_shards(
        Tones(),
        tmp_path / "two",
        shard_size=2,
        on_progress=lambda *step: seen.append(step),
        elsewhere=by_engine(Tones(), tmp_path / "two"),
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert (index.samples, [skipped.id for skipped in index.skipped]) == (4, ["tone-1"])
    assert seen == sorted(seen)
    assert seen[-1] == (5, 1)


def test_a_shard_that_cannot_be_made_ends_no_run(tmp_path: Path) -> None:
    out = tmp_path / "shards"
    said = r"1 of 3 shards could not be made, the first \(shard-000001.tar\) because: LookupError: no such tone The"
    with pytest.raises(OSError, match=said):
        make_shards(Tones(), out, shard_size=2, elsewhere=by_engine(Tones(LookupError("no such tone")), out))
    others = {name: (out / name).stat().st_mtime_ns for name in ("shard-000000.tar", "shard-000002.tar")}
    make_shards(Tones(), out, shard_size=2, elsewhere=by_engine(Tones(), out))
    assert {name: (out / name).stat().st_mtime_ns for name in others} == others
    make_shards(Tones(), tmp_path / "one", shard_size=2)
    assert content(out) == content(tmp_path / "one")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            Tones(torch.OutOfMemoryError("CUDA out of memory.")),
            r"^tones ran out of the GPU's memory; set --batch",
        ),
        (Tones(OSError(28, "No space left on device")), r"shard-000001\.tar cannot be written \(the disk is full\)"),
        (Tones(length=999), "A worker finds other raw shards or another model"),
    ],
)
def test_what_is_wrong_for_every_shard_stops_the_run(tmp_path: Path, there: Source, said: str) -> None:
    with pytest.raises(StopRun, match=said):
        make_shards(Tones(), tmp_path, shard_size=2, elsewhere=by_engine(there, tmp_path))
    assert not (tmp_path / "shard-000002.tar").exists()
    make_shards(Tones(), tmp_path, shard_size=2)  # the rest, by the process itself


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "1"], "--gpus came without --ray"),
        (["--ray", "--device", "cuda"], "--device is cuda, but --gpus gives workers none"),
        (["--ray", "--gpus", "1.5"], "gpus is 1.5, but a share of one GPU"),
    ],
)
@pytest.mark.parametrize("command", ["features", "masks", "baselines"])
def test_options_that_do_not_fit_are_refused_early(command: str, options: list[str], said: str, tmp_path: Path) -> None:
    start = {
        "features": ["prepare", "features", "--raw", "nowhere", "--model", "nowhere"],
        "masks": ["prepare", "masks", "--shards", "nowhere"],
        "baselines": ["evaluate", "baselines", "--items", "nowhere", "--system", "ours-mask"],
    }[command]
    result = CliRunner().invoke(app, [*start, "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_under_a_launcher_ray_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["prepare", "masks", "--shards", "nowhere", "--out", str(tmp_path / "out"), "--ray"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "several processes of a launcher" in result.output
