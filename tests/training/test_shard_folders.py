"""Folders of shards that two make at once, that cannot be written, or that are finished."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from training.data import folder_lock, shard_writer
from training.data.shard_writer import make_shards

from ..conftest import ROOT
from .test_shard_safety import DEEP
from .test_shards import Drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    make_shards(Drawn(), out, shard_size=4)
    return out


SCRIPT = """
import sys, time
from pathlib import Path

sys.path[:0] = [".", "tests/training"]
from test_shards import Drawn
from training.data.shard_writer import make_shards

class Slow(Drawn):
    def make(self, position):
        if position == 2:
            Path(sys.argv[2]).touch()
            while Path(sys.argv[2]).exists():
                time.sleep(0.02)
        return super().make(position)

index = make_shards(Slow(), Path(sys.argv[1]), shard_size=4)
print(index.samples, len(index.skipped))
"""


def start_slow(out: Path, mark: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(out), str(mark)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


def test_two_in_one_folder_are_kept_apart_and_the_dead_hold_nothing(folder: Path, tmp_path: Path) -> None:
    out, mark = tmp_path / "out", tmp_path / "mark"
    first = start_slow(out, mark)
    with pytest.raises(ValueError, match=rf"is being prepared by process {first.pid} on .* since .*; wait for it"):
        make_shards(Drawn(), out, shard_size=4)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.communicate()
    mark.unlink()
    second = start_slow(out, mark)  # whose lock is not that of the dead one
    with pytest.raises(ValueError, match=f"process {second.pid} "):
        make_shards(Drawn(), out, shard_size=4)
    mark.unlink()
    assert second.communicate(timeout=120) == ("9 2\n", "")
    assert make_shards(Drawn(), out, shard_size=4).samples == 9
    for file in folder.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(folder))


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.FileLock, "acquire", refuse)
    assert make_shards(Drawn(), tmp_path / "out", shard_size=4).samples == 9
    assert "file system without locks" in caplog.text


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=r"file.* cannot be written \(.*\); give another --out"):
            make_shards(Drawn(), out, shard_size=4)


def test_samples_are_counted_at_the_end_and_on_a_rerun(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make = shard_writer.write_shard

    def losing(work: Any, number: int) -> None:
        make(work, number)
        if number == 2:
            (out / "shard-000001.json").unlink()

    monkeypatch.setattr(shard_writer, "write_shard", losing)
    with pytest.raises(OSError, match=r"1 of 3 shards in .*out went missing .* run the same command again"):
        make_shards(Drawn(), out, shard_size=4)
    assert not (out / "shards.json").exists()
    monkeypatch.undo()
    assert make_shards(Drawn(), out, shard_size=4).samples == 9

    few = shutil.copytree(folder, tmp_path / "few")  # as an earlier version left it
    index = json.loads((few / "shards.json").read_text())
    index["shards"].pop()
    index["samples"] -= 2
    (few / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has 7 samples and names 2 as skipped, but 11 were asked for"):
        make_shards(Drawn(), few, shard_size=4)
    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / "shard-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"shard-000001\.tar has 0 bytes, but \d+ are expected"):
        make_shards(Drawn(), cut, shard_size=4)


def test_a_finished_folder_may_be_read_only(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder, tmp_path / "out")
    out.chmod(0o555)
    try:
        assert make_shards(Drawn(), out, shard_size=4).samples == 9
    finally:
        out.chmod(0o755)


@pytest.mark.parametrize("text", ["", "[]", DEEP, '{"a"'])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "unfinished.json").write_text(text)
    with pytest.raises(ValueError, match=r"unfinished\.json cannot be read .* remove that folder"):
        make_shards(Drawn(), tmp_path, shard_size=4)


def test_what_belongs_together_elsewhere_says_how(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"folders combine in data\.shards of a recipe"):
        make_shards(Drawn(12), out, shard_size=4)
