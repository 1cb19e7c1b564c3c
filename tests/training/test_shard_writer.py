"""Folders of shards made by several processes, interrupted, finished, and on full disks."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.data import worker_pool
from training.data.clip_lists import read_clips
from training.data.shard_format import Sample
from training.data.shard_writer import make_shards
from training.data.shards import Shards
from training.data.source import Source
from training.data.videos import VideoSource

from ..conftest import ROOT, heed_ctrl_c
from .video_material import content, video_source


def test_processes_change_nothing(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_shards(video_source(audiocaps, videos), tmp_path / "one", shard_size=3)
    make_shards(
        video_source(audiocaps, videos),
        tmp_path / "two",
        shard_size=3,
        workers=2,
        on_progress=lambda *n: seen.append(n),
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert seen == sorted(seen)
    assert seen[-1] == (10, 7)


def test_processes_have_one_thread_each(
    audiocaps: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what a process would begin with
    context = multiprocessing.get_context("spawn")
    sources = context.Queue()
    sources.put(pickle.dumps(video_source(audiocaps, videos)))
    given = (sources, tmp_path, 3, context.Array("q", 2), context.Event())
    with ProcessPoolExecutor(1, mp_context=context, initializer=worker_pool._start_process, initargs=given) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


UNGUARDED = """
from pathlib import Path
from training.data.shard_writer import make_shards
from training.data.source import Source

class Heavy(Source):
    def __len__(self): return 4
    def settings(self): return {}
    def name(self, position): return str(position)
    def make(self, position): raise ValueError("never asked")

source = Heavy()
source.heavy = bytes(1_000_000)  # more than a pipe holds
make_shards(source, Path("out"), shard_size=1, workers=2)
"""


def test_a_script_without_a_guard_does_not_wait_for_ever(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # every process that begins would run it whole again, and dies instead
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "ChildProcessError: A process that makes shards died" in ended.stderr


def test_a_source_that_cannot_be_sent_says_so(tmp_path: Path) -> None:
    source = Long()
    source.settings = lambda: {}  # type: ignore[method-assign]
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        make_shards(source, tmp_path, shard_size=1, workers=2)


class Stopping(VideoSource):
    """Is interrupted at sample 5."""

    def make(self, position: int) -> Sample:
        if position == 5:
            raise KeyboardInterrupt
        return super().make(position)


def test_an_interrupted_run_goes_on_to_the_same_bytes(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_shards(video_source(audiocaps, videos), whole, shard_size=2)
    stopping = Stopping(read_clips(audiocaps), videos, seconds=3.0, frames=3, size=32, licence="CC-BY")
    with pytest.raises(KeyboardInterrupt):
        make_shards(stopping, broken, shard_size=2)
    left = {file.name for file in broken.iterdir()}
    assert {"shard-000000.tar", "shard-000000.json", "shard-000001.tar"} <= left
    assert not any(name.startswith(("shard-000002", ".")) for name in left)
    with pytest.raises(ValueError, match=r"shards\.json is missing"):
        Shards(broken, ("id",))
    made = (broken / "shard-000000.tar").stat().st_mtime_ns
    (broken / "shard-000001.tar").write_bytes(b"half of it")  # a shard that does not fit its record is made again
    (broken / ".shard-000002.tar.abc.tar").write_bytes(b"of a killed process")
    with pytest.raises(ValueError, match=r"was made with size 32, but 48 came; give another --out"):
        make_shards(video_source(audiocaps, videos, size=48), broken, shard_size=2)
    make_shards(video_source(audiocaps, videos), broken, shard_size=2)
    assert (broken / "shard-000000.tar").stat().st_mtime_ns == made
    assert content(broken) == content(whole)


def test_a_finished_folder_is_only_read(audiocaps: Path, videos: Path, tmp_path: Path) -> None:
    source = video_source(audiocaps, videos)
    index = make_shards(source, tmp_path, shard_size=5)
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = make_shards(
        Stopping(source.clips, videos, seconds=3.0, frames=3, size=32, licence="CC-BY"), tmp_path, shard_size=5
    )
    assert again == index
    assert times == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="was made with shard_size 5, but 6 came"):
        make_shards(source, tmp_path, shard_size=6)
    source.clips = source.clips[:-1]
    with pytest.raises(ValueError, match="was made with inputs"):
        make_shards(source, tmp_path, shard_size=5)


def test_nothing_usable_says_why_and_leaves_nothing(tmp_path: Path, audiocaps: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"None of 10 samples .* \(whole-mp4_2\) because: There is no video"):
        make_shards(video_source(audiocaps, tmp_path / "videos"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def wait_for(condition: Any, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_stops_all_processes_and_keeps_what_is_finished(videos: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "list.csv", tmp_path / "out"
    rows = "".join(f"whole-mp4,{i / 100},number {i}\n" for i in range(200))
    file.write_text("youtube_id,start_time,caption\n" + rows)
    command = [sys.executable, "-m", "training", "prepare", "videos", "--csv", str(file), "--videos", str(videos)]
    command += ["--out", str(out), "--seconds", "3", "--size", "64", "--frames", "8", "--workers", "2"]
    command += ["--shard-size", "10"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c
    )
    wait_for(lambda: process.poll() is not None or (out / "shard-000000.json").is_file())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = process.communicate(timeout=600)  # ends when all processes that could write errors have
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    names = {path.name for path in out.iterdir()}
    assert not any(name.startswith(".") for name in names)
    finished = [name for name in names if name.endswith(".tar")]
    assert 1 <= len(finished) < 20
    assert {name.replace(".tar", ".json") for name in finished} <= names


class Long(Source):
    """Sample `i` is `i + 1` seconds of noise."""

    def __len__(self) -> int:
        return 4

    def settings(self) -> dict[str, Any]:
        return {}

    def name(self, position: int) -> str:
        return str(position)

    def make(self, position: int) -> Sample:
        noise = np.random.default_rng(position).uniform(-1, 1, 16_000 * (position + 1))
        return Sample(str(position), (), "CC0", "noise", position + 1.0, waveform=noise)


def test_a_full_disk_is_named_and_finished_shards_stay(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))  # the kernel refuses to write more to a file
    try:
        with pytest.raises(OSError, match=r"shard-000002\.tar cannot be written \(File too large\); free some space"):
            make_shards(Long(), tmp_path, shard_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.glob("*.tar")} == {"shard-000000.tar", "shard-000001.tar"}
    assert not list(tmp_path.glob(".*"))
    assert make_shards(Long(), tmp_path, shard_size=1).samples == 4


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard size 0 and 0 workers"):
        make_shards(Long(), tmp_path, shard_size=0)
