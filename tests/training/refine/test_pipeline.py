"""The whole pipeline on a few videos: what is kept, what is computed once, and runs that are stopped."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from training.__main__ import app
from training.cluster.rows import Row
from training.cluster.stage import StopRun
from training.data.shards import Shards
from training.refine import parts as parts_module
from training.refine.manifest import read_manifest
from training.refine.parts import Parts
from training.refine.pipeline import Summary, refine
from training.refine.steps.clips import ClipStep

from .material import KEPT, settings_of, write_settings

DROPPED = {
    "song0_0": ("labels", "It is labelled Guitar."),
    "gone0_0": ("lists", "There is no video gone0 or gone0_0 in videos."),
    "bench0_0": ("lists", "The list benchmark.txt keeps this video out."),
    "late0_5": ("clips", "It has less than 1.9 s of sound."),
    "mute0_0": ("clips", "mute0.mp4 has no sound."),
    "silent0_0": ("clips", "It is silent."),
}


@pytest.fixture(scope="module")
def done(material: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """An unbroken run."""
    out = tmp_path_factory.mktemp("runs") / "out"
    return out, refine(settings_of(material, out))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the clips that are decoded by the first step."""
    seen: list[str] = []
    measure = ClipStep.measure

    def spy(self: ClipStep, rows: Sequence[Row]) -> list[Row]:
        found = measure(self, rows)
        seen.extend(row["id"] for row in rows)
        return found

    monkeypatch.setattr(ClipStep, "measure", spy)
    return seen


def test_what_is_kept_and_why_the_others_are_not(done: tuple[Path, Summary]) -> None:
    out, summary = done
    rows = {row["id"]: row for row in read_manifest(out)}
    assert len(rows) == summary.listed == 13
    assert [name for name, row in rows.items() if not row["dropped_by"]] == KEPT
    found = {name: (row["dropped_by"], row["reason"]) for name, row in rows.items() if row["dropped_by"]}
    step, reason = found.pop("broken0_0")
    assert step == "clips"
    assert reason == "broken0.mp4 cannot be decoded (Invalid data found when processing input)."
    assert found == DROPPED
    dog = rows["dog0_2"]
    assert (dog["caption"], dog["caption_by"], dog["licence"]) == ("Bark, yap", "labels", "CC-BY-4.0")
    assert dog["sound_seconds"] == pytest.approx(2, abs=0.01)
    assert dog["level"] == pytest.approx(20 * np.log10(0.4 / np.sqrt(2)), abs=0.3)
    assert (dog["category"], rows["rain0_1"]["category"]) == ("Animal", "Weather")
    assert rows["song0_0"]["subset"] == ""
    assert summary.hours == pytest.approx(6 * 2 / 3600, rel=0.01)


def test_shards_have_the_clips_with_their_captions_and_no_video_twice(done: tuple[Path, Summary]) -> None:
    out, _ = done
    rows = {row["id"]: row for row in read_manifest(out) if not row["dropped_by"]}
    videos = {}
    for subset in ("train", "test"):
        shards = Shards(out / "shards" / "raw" / subset, ("id", "captions", "licence", "waveform", "images"))
        samples = [shards[number] for number in range(len(shards))]
        assert {sample["id"] for sample in samples} == {name for name, row in rows.items() if row["subset"] == subset}
        for sample in samples:
            assert sample["captions"] == [rows[sample["id"]]["caption"]]
            assert sample["licence"] == "CC-BY-4.0"
            assert len(sample["waveform"]) == pytest.approx(32_000, abs=200)
            assert tuple(sample["images"].shape) == (2, 32, 43, 3)
        videos[subset] = {rows[sample["id"]]["video"] for sample in samples}
    assert videos["train"]
    assert videos["test"]
    assert not videos["train"] & videos["test"]


def test_the_command_ends_with_what_each_step_dropped_and_why(
    material: Path, done: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    settings = write_settings(material, done[0])
    for height, lines in ((40, 12), (10, 10)):
        monkeypatch.setenv("LINES", str(height))
        said = CliRunner().invoke(app, ["refine", str(settings)]).stdout.splitlines()
        table = said[said.index(next(line for line in said if line.startswith("step "))) :]
        assert len(table) == lines
        assert table[-1].startswith("6 of 13 clips (0.00 h) are kept")
        assert max(map(len, table[:-1])) <= 90
        assert table[1].split()[:5] == ["lists", "13", "2", "0.01", "1:"]
        clips = next(number for number, line in enumerate(table) if line.startswith("clips "))
        assert table[clips].split()[:3] == ["clips", "10", "4"]
        assert (table[clips + 1].strip() == "3: Other reasons.") == (height == 10)


def test_a_second_run_decodes_nothing_and_gives_the_same(
    material: Path, done: tuple[Path, Summary], looked: list[str]
) -> None:
    out, _ = done
    before = read_manifest(out)
    refine(settings_of(material, out))
    assert looked == []
    assert read_manifest(out) == before


def test_another_threshold_decodes_nothing(
    material: Path, done: tuple[Path, Summary], looked: list[str], tmp_path: Path
) -> None:
    shutil.copytree(done[0], tmp_path / "out")
    with pytest.raises(ValueError, match="shards of another selection"):
        refine(settings_of(material, tmp_path / "out", clips__least=0.2))
    shutil.rmtree(tmp_path / "out" / "shards")
    summary = refine(settings_of(material, tmp_path / "out", clips__least=0.2))
    assert summary.kept == 7  # the late one, too
    assert looked == []
    shutil.rmtree(tmp_path / "out" / "shards")
    refine(settings_of(material, tmp_path / "out", clips__least=0.2, labels__drop="[]"))
    assert looked == ["song0_0"]


def test_a_damaged_part_is_measured_again(
    material: Path, done: tuple[Path, Summary], looked: list[str], tmp_path: Path
) -> None:
    shutil.copytree(done[0], tmp_path / "out")
    damaged = min((tmp_path / "out" / "steps").glob("clips-*/*/part-*.parquet"))
    ids = set(parquet.read_table(damaged)["id"].to_pylist())
    damaged.write_bytes(damaged.read_bytes()[:100])
    refine(settings_of(material, tmp_path / "out"))
    assert set(looked) == ids - {"broken0_0", "mute0_0"}  # which cannot be measured
    assert read_manifest(tmp_path / "out") == read_manifest(done[0])


def test_many_parts_become_one_and_nothing_is_measured_again(
    material: Path, done: tuple[Path, Summary], looked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0], tmp_path / "out")
    monkeypatch.setattr(parts_module, "MANY", 2)
    refine(settings_of(material, tmp_path / "out"))
    assert len(list((tmp_path / "out" / "steps").glob("clips-*/*/part-*.parquet"))) == 1
    assert looked == []
    assert read_manifest(tmp_path / "out") == read_manifest(done[0])


def test_a_step_that_stops_the_run_loses_nothing(
    material: Path, done: tuple[Path, Summary], looked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Parts.write
    written: list[int] = []

    def full(self: Parts, rows: Sequence[Row], took: float) -> None:
        if len(written) == 3:
            raise StopRun("no more")
        written.append(len(rows))
        write(self, rows, took)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write", full)
        with pytest.raises(StopRun, match="no more"):
            refine(settings_of(material, tmp_path / "out"))
    refine(settings_of(material, tmp_path / "out"))
    assert read_manifest(tmp_path / "out") == read_manifest(done[0])
    assert len(looked) <= 12  # ten clips, and a batch of two that was measured but not kept


# A run that is ended by kill -9 at the given one of its writes, before or after the file is in its place.
UNTIL_KILLED = """
import itertools, os, pathlib, signal
from training.refine.pipeline import refine

replace, count = pathlib.Path.replace, itertools.count(1)

def fatal(self, target):
    number = next(count)
    if number < writes or after:
        replace(self, target)
    if number == writes:
        os.kill(os.getpid(), signal.SIGKILL)
    return target

pathlib.Path.replace = fatal
refine(settings)
"""


def test_runs_that_are_killed_at_any_moment_end_as_an_unbroken_one(
    material: Path, done: tuple[Path, Summary], tmp_path: Path
) -> None:
    """kill -9 at random writes of a run, twenty times; then a run to the end."""
    server = multiprocessing.get_context("forkserver")  # imports once what all of them need
    server.set_forkserver_preload(["training.refine.pipeline", "pandas", "pyarrow.parquet", "webdataset", "av"])
    settings, draw = settings_of(material, tmp_path / "out"), random.Random(0)
    for _ in range(20):
        given = {"settings": settings, "writes": draw.randrange(1, 5), "after": draw.random() < 0.5}
        process = server.Process(target=exec, args=(UNTIL_KILLED, given))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = server.Process(target=refine, args=(settings,))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert read_manifest(tmp_path / "out") == read_manifest(done[0])
    for subset in ("train", "test"):
        one, other = (out / "shards" / "raw" / subset for out in (tmp_path / "out", done[0]))
        tars = sorted(file.name for file in other.glob("*.tar"))
        assert sorted(file.name for file in one.glob("*.tar")) == tars
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in tars)


def test_a_dry_run_says_what_is_done_what_is_left_and_what_stands_in(
    material: Path, done: tuple[Path, Summary], looked: list[str], tmp_path: Path
) -> None:
    new = write_settings(material, tmp_path / "new")
    said = CliRunner().invoke(app, ["refine", str(new), "--dry-run"])
    assert said.exit_code == 0, said.output
    for text in (
        "lists: 13 clips, 2 without a video or excluded",
        "labels: 1 dropped, 10 go on",
        "at most 10 to do; not measured yet",
        "stand-in: no language model",
        "and the steps that are not measured yet",
    ):
        assert text in said.output
    assert not (tmp_path / "new").exists()
    again = CliRunner().invoke(app, ["refine", str(write_settings(material, done[0])), "--dry-run"])
    assert "10 clips measured, at most 0 to do" in again.output
    assert "if as many pass as did before (60%)" in again.output
    assert "on machines" not in again.output  # nothing is left
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "rates.json").write_text('{"clips": 7200, "captions": 1800, "rephrase": 3600}')
    many = [f"{step}.resources={{cpus: {cpus}, workers: 16}}" for step, cpus in (("clips", 1), ("captions", 4))]
    few = "rephrase.resources={cpus: 1, workers: 4}"
    costly = CliRunner().invoke(app, ["refine", str(new), "--dry-run", "engine.kind=ray", *many, few])
    assert "7.2e+03 s per clip, 20.0 h of one worker" in costly.output
    # (10 * 2 h + 10 * 0.5 h * 4 + 10 * 1 h) / 16 CPUs
    assert "1: 3.1 h (waiting for CPUs), 8: 2.5 h (waiting for workers of rephrase, 4 at most)" in costly.output
    assert looked == []


def test_the_command_says_in_a_sentence_what_is_wrong(material: Path, tmp_path: Path) -> None:
    settings = write_settings(material, tmp_path / "out")
    for change, said in (
        ("matching={scorer: names, sounds: nowhere.safetensors}", "nowhere.safetensors is missing"),
        ("lists=[{form: folder, videos: nowhere}]", "nowhere is not a folder"),
        ("exclude=[nowhere.csv]", "nowhere.csv"),
    ):
        result = CliRunner().invoke(app, ["refine", str(settings), change])
        assert result.exit_code == 1
        assert said in result.output
        assert "Traceback" not in result.output
