"""Results of jobs survive a process that is killed, at whatever moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sounding.cli import jobs as command
from sounding.jobs.job import Job, read_jobs, setting_of
from sounding.jobs.results import DONE, Results, read_objects
from sounding.jobs.synthesis import Synthesizer
from sounding.utils.process_group import ProcessGroup

from ..conftest import ROOT
from .cli_runs import folder
from .job_runs import SHORT, kept, run, told, write_jobs

__all__ = ["folder"]

KILLED = """
import os, signal, sys
from sounding.jobs import results
from sounding.cli.app import app

write, files = results.write_atomic, []

def killed(path, data):
    files.append(path)
    if len(files) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)

results.write_atomic = killed
app(sys.argv[1:])
"""


def test_a_run_that_is_killed_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two files of a job, after others were done."""
    masks = {"mask": ["left.png", "right.png"]}
    write_jobs(folder, {"mask": "left.png", "out": "a.wav"}, {**masks, "out": "b.wav"}, {**masks, "out": "c.wav"})
    arguments = ["generate", "--jobs", "jobs.jsonl", *SHORT]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    there = [path.name for path in folder.glob("?*.wav")]
    assert 3 <= len(there) < 7
    sampled = []
    sounds = Synthesizer.sounds

    def counted(self: Synthesizer, jobs: list, *args: object) -> list:
        sampled.extend(one.job.line for one in jobs)
        return sounds(self, jobs, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Synthesizer, "sounds", counted)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert 1 not in sampled
    assert 1 <= len(sampled) <= 2
    assert sorted(one["line"] for one in kept(folder)) == [1, 2, 3]
    assert [one["line"] for one in told(result)] == [1, 2, 3]
    assert len(list(folder.glob("?*.wav"))) == 7
    first = {path.name: path.read_bytes() for path in folder.glob("*.wav")}
    for path in folder.glob("*.wav"):
        path.unlink()
    assert {one["status"] for one in told(run(folder))} == {"done"}  # of all files that are gone
    assert {path.name: path.read_bytes() for path in folder.glob("*.wav")} == first
    assert not list(folder.glob(".sounding-*"))
    assert not list(folder.glob("*.notes"))


@pytest.fixture
def job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(folder)
    lines = write_jobs(folder, {"mask": ["left.png", "right.png"], "out": "x.wav"})
    (found,) = read_jobs(lines, setting_of("tiny.safetensors", {}))
    assert isinstance(found, Job)
    return found


def test_files_without_a_line_are_found_by_their_note(folder: Path, job: Job) -> None:
    contents = {path: path.name.encode() for path in job.outs}
    result = {"line": 1, "status": DONE, "job": job.digest}
    written = Results(folder / "r")
    written.open()
    line = written.write(job, result, contents)
    written.close(complete=False)  # as a process that is killed here

    after = Results(folder / "r")
    after.open()
    assert after.finished(job) is None
    assert after.recovered(job) == line
    job.outs[1].unlink()
    assert after.recovered(job) is None  # killed between two files: those that are there go
    assert not any(path.exists() for path in job.outs)
    after.write(job, result, contents)
    job.outs[0].write_bytes(b"changed by somebody")
    with pytest.raises(ValueError, match=r"x_1\.wav exists and is not the result of this job"):
        after.recovered(job)
    with pytest.raises(ValueError, match="has come since"):
        after.write(job, result, contents)
    after.close(complete=True)
    assert not (folder / "r.notes").exists()


def test_a_line_that_was_written_half_is_not_a_result(folder: Path, job: Job) -> None:
    line = json.dumps({"line": 1, "status": DONE, "job": job.digest})
    (folder / "r").write_text(line + "\n" + line[:-5])
    for path in job.outs:
        path.write_bytes(b"")
    results = Results(folder / "r")
    results.open()
    results.append({"line": 2, "status": DONE})
    results.close(complete=True)
    assert [one["line"] for one in read_objects(folder / "r")] == [1, 2]
    assert results.finished(job) is not None
    job.outs[2].unlink()
    assert results.finished(job) is None


def test_a_run_keeps_others_from_its_results(folder: Path) -> None:
    first, second = Results(folder / "r"), Results(folder / "r")
    first.open()
    with pytest.raises(ValueError, match="written by another run"):
        second.open()
    first.close(complete=True)
    second.open()
    second.close(complete=True)


def test_processes_do_disjoint_jobs_and_join_their_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ProcessGroup, "wait", lambda self: None)
    lines = [{"mask": "left.png", "seconds": 0.2 + i / 10, "out": f"{i}.wav"} for i in range(5)]
    jobs = read_jobs(write_jobs(folder, *lines, "{"), setting_of("tiny.safetensors", {"steps": 1}))
    failed = [
        command._do(jobs, "tiny.safetensors", ("cpu", "fp32"), folder / "r.jsonl", None, ProcessGroup(rank, 2, rank))
        for rank in (1, 0)
    ]
    assert sorted(failed) == [0, 1]
    assert sorted(one["line"] for one in kept(folder, "r.jsonl")) == [1, 2, 3, 4, 5, 6]
    assert not list(folder.glob("r.jsonl.*"))
    assert len(list(folder.glob("?.wav"))) == 5
