"""`sounding generate --jobs`: many sounds by one command."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.cli.generate import generate
from sounding.jobs import run as pipeline
from sounding.jobs.inputs import read_inputs
from sounding.jobs.job import Job, JobLine, read_jobs, setting_of
from sounding.jobs.planning import MOST_ROWS, plan, rows_within, sampling_of, shares
from sounding.jobs.queues import in_thread
from sounding.jobs.results import Results
from sounding.jobs.run import left_to_do, run_jobs
from sounding.jobs.synthesis import Synthesizer
from sounding.model import SoundingModel
from sounding.utils.files import FullDiskError

from .cli_runs import folder, sounding
from .job_runs import kept, run, told, write_jobs

__all__ = ["folder"]


def count(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The first arguments with which a method is called."""
    method, calls = getattr(owner, name), []

    def counted(self: Any, *args: Any, **settings: Any) -> Any:
        calls.append(args[0])
        return method(self, *args, **settings)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_jobs_make_what_single_commands_make_and_are_done_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count(monkeypatch, SoundingModel, "see")
    write_jobs(
        folder,
        {"mask": "left.png", "seed": 3, "out": "Hündin 犬.wav"},
        "",
        {"text": "a dog", "seconds": 0.3, "out": "new/t.flac", "attention-map": "map.png"},
        {"mask": ["left.png", "right.png"], "place": True, "gain": [0, -6], "out": "both.wav"},
        {"mask": "right.png", "batch": 2, "negative_text": "a cow", "cfg": 2, "level": False, "out": "two.wav"},
        {"mask": "left.png", "loop": True, "variation": 5, "rate": 24000, "bits": "24", "out": "loop.wav"},
        {"mask": ["left.png", "right.png"], "blend": True, "out": "blend.wav"},
    )
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert len(seen) == 1
    reports = told(result)
    assert [(one["line"], one["status"]) for one in sorted(reports, key=lambda one: one["line"])] == [
        (1, "done"),
        (3, "done"),
        (4, "done"),
        (5, "done"),
        (6, "done"),
        (7, "done"),
    ]
    assert "6 of 6 jobs done" in result.stderr
    out = (f"{folder}/single.wav",)
    single = {
        "Hündin 犬.wav": (("--mask", "left.png", "--seed", "3"), ""),
        "both_2.wav": (("--mask", "left.png", "--mask", "right.png", "--place", "--gain", "0", "--gain", "-6"), "_2"),
        "two_2.wav": (
            ("--mask", "right.png", "--batch", "2", "--negative-text", "a cow", "--cfg", "2", "--no-level"),
            "_2",
        ),
        "blend.wav": (("--mask", "left.png", "--mask", "right.png", "--blend"), ""),
        "loop.wav": (("--mask", "left.png", "--loop", "--variation", "5", "--rate", "24000", "--bits", "24"), ""),
    }
    monkeypatch.chdir(folder)
    for name, (arguments, number) in single.items():
        assert sounding(folder, *arguments, "--out", *out).exit_code == 0
        assert (folder / name).read_bytes() == (folder / f"single{number}.wav").read_bytes(), name
    assert {"files", "sureness", "sample_rate", "out", "job"} <= reports[0].keys()
    assert (folder / "new" / "t.flac").is_file()
    assert (folder / "map.png").is_file()

    monkeypatch.setattr("sounding.model.load", lambda *args, **settings: pytest.fail("The model was read."))
    before = kept(folder)
    again = run(folder)
    assert again.exit_code == 0, again.output
    assert {one["status"] for one in told(again)} == {"kept"}
    assert kept(folder) == before


def test_bad_lines_are_failures_and_end_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = {"mask": "left.png"}
    (folder / "there.wav").write_bytes(b"somebody's")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    (folder / "away").symlink_to("/tmp")
    cases: list[tuple[dict[str, Any] | str, str]] = [
        ({**mask, "out": "good.wav"}, ""),
        ("{", "it is not JSON"),
        ("[1]", "an object is expected"),
        ('{"out": "a.wav", "out": "b.wav"}', "a key is there twice"),
        ({**mask, "out": "a.wav", "negative-text": "a", "negative_text": "b"}, "once with - and once with _"),
        ('{"image": "' + "x" * 70_000 + '"}', "longer than 65,536 bytes"),
        (mask, "'out' is missing"),
        ({**mask, "out": "a.wav", "stepps": 2}, "Unknown key 'stepps'; a job has attention_map"),
        ({**mask, "out": "a.wav", "steps": "2"}, "steps is '2'"),
        ({**mask, "out": "a.wav", "steps": 1000}, "1 to 999 is expected"),
        ({**mask, "out": "a.wav", "seconds": 1e9}, "at most 600 seconds"),
        ({**mask, "out": "a.wav", "seconds": 0.001}, "ask for 0.1 or more"),
        ('{"image": "picture.png", "out": "a.wav", "seconds": NaN}', "NaN is no number"),
        ({**mask, "out": "a.wav", "seed": -1}, "2^64 - 1"),
        ({**mask, "out": "a.wav", "likely_names": 99}, "1 to 20 names"),
        ({**mask, "out": "a.txt"}, ".wav, .flac, .ogg or .mp3 is expected"),
        ({**mask, "out": "a\x00.wav"}, "real characters"),
        ({**mask, "out": "../a.wav"}, "outside of"),
        ({**mask, "out": str(folder / "a.wav")}, "outside of"),
        ({**mask, "out": "away/a.wav"}, "outside of"),
        ({**mask, "out": "there.wav"}, "there.wav exists and is not the result of this job"),
        ({**mask, "out": "x/../good.wav"}, "outside of"),
        ({**mask, "seed": 9, "out": "good.wav"}, "a file that line 1 writes"),
        ({"mask": ["left.png", "right.png"], "out": "good.wav"}, "a file that line 1 writes"),
        ({"mask": "missing.png", "out": "b.wav"}, "missing.png"),
        ({"image": "broken.png", "out": "c.wav"}, "cannot be read as an image"),
        ({"image": "broken.png", "out": "d.wav"}, "cannot be read as an image"),
        ({**mask, "out": "e.wav", "image": "/dev/zero"}, "no ordinary file"),
        ({"text": " ", "out": "f.wav"}, "a sentence is expected"),
    ]
    write_jobs(folder, *(case for case, _ in cases))
    result = run(folder, "--out-dir", ".", "--results", "r.jsonl")
    assert result.exit_code == 3, result.output
    by_line = {one["line"]: one for one in told(result)}
    assert len(by_line) == len(cases) == len(kept(folder, "r.jsonl"))
    for number, (case, says) in enumerate(cases, start=1):
        one = by_line[number]
        assert one["status"] == ("failed" if says else "done"), (case, one)
        assert says in one.get("error", ""), one
        assert "\n" not in one.get("error", "")
    assert (folder / "there.wav").read_bytes() == b"somebody's"
    assert not Path("/tmp/a.wav").exists()
    assert f"{len(cases) - 1} failed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--jobs", "empty.jsonl"), "has no jobs"),
        (("--jobs", "missing.jsonl"), "cannot be read"),
        (("--jobs", "."), "no file that results could lie beside"),
        (("--jobs", ".", "--out-dir", "x"), "cannot be read"),
        (("--jobs", "-"), "give --results or --out-dir"),
        (("--out", "a.wav"), "--out came with --jobs"),
        (("--at-once", "0"), "--at-once is 0"),
        (("--results", "jobs.jsonl"), "is the file of jobs"),
        (("--results", "left.png"), "something else than results"),
        (("--model", "no.safetensors"), "no.safetensors is not a file"),
        (("--device", "cuda:999"), "CUDA"),
        (("--out-dir", "left.png"), "but a folder is expected"),
    ],
)
def test_what_is_wrong_with_all_jobs_ends_the_run_before_it_begins(
    folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    (folder / "empty.jsonl").write_text("\n \n")
    write_jobs(folder, {"out": "a.wav"})
    before = (sorted(folder.rglob("*")), (folder / "left.png").read_bytes())
    result = run(folder, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("sounding: ")
    assert says in result.stderr
    assert (sorted(folder.rglob("*")), (folder / "left.png").read_bytes()) == before


def test_options_of_jobs_are_refused_without_them(folder: Path) -> None:
    result = sounding(folder, "--mask", str(folder / "left.png"), "--out", "a.wav", "--out-dir", "x")
    assert (result.exit_code, "--out-dir came without --jobs" in result.stderr) == (1, True)


def test_jobs_come_through_pipes(folder: Path) -> None:
    line = json.dumps({"image": "picture.png", "mask": "left.png", "out": "a.wav"})
    result = run(folder, "--out-dir", "sounds", jobs="-", input="\ufeff" + line)  # without a line's end
    assert result.exit_code == 0, result.output
    assert (folder / "sounds" / "a.wav").is_file()
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=(folder / "pipe").write_text, args=(line,))
    writer.start()
    again = run(folder, "--out-dir", "sounds", "--results", "sounds/jobs.results.jsonl", jobs="pipe")
    writer.join()
    assert [one["status"] for one in told(again)] == ["kept"], again.output


def jobs_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any]) -> list[Job]:
    monkeypatch.chdir(folder)
    found = read_jobs(write_jobs(folder, *lines), setting_of("tiny.safetensors", {"steps": 2, "seconds": 0.5}))
    jobs = [job for job in found if isinstance(job, Job)]
    assert len(jobs) == len(lines)
    return jobs


def test_batches_equal_single_sounds_to_rounding(
    folder: Path, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where batches are not taken apart; and what does not fit is sampled in smaller ones."""
    lines = [
        {"mask": "left.png", "seconds": 0.5 - i / 1000, "seed": i, "level": False, "out": f"{i}.wav"} for i in range(5)
    ] + [{"mask": "right.png", "negative_text": "a cow", "batch": 3, "level": False, "out": "n.wav"}]
    jobs = jobs_of(folder, monkeypatch, *lines)
    sampled = count(monkeypatch, SoundingModel, "sample")
    written: dict[str, torch.Tensor] = {}

    def outputs(options: Any, model: Any, condition: Any, tracks: torch.Tensor, *rest: Any) -> Any:
        written.setdefault(str(options.out), tracks)
        return made(options, model, condition, tracks, *rest)

    made = pipeline.make_outputs
    monkeypatch.setattr(pipeline, "make_outputs", outputs)
    chunk = Synthesizer._made

    def short(self: Synthesizer, condition: Any, negative: Any, noise: torch.Tensor, sampling: Any) -> Any:
        if len(noise) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return chunk(self, condition, negative, noise, sampling)

    monkeypatch.setattr(Synthesizer, "_made", short)
    with monkeypatch.context() as whole:
        whole.setattr("sounding.parts.one_by_one", lambda *batches: [batches])
        whole.setattr(pipeline, "grounds_ahead", lambda device: True)
        results = Results(folder / "r.jsonl")
        results.open()
        run_jobs(tiny_model, jobs, results, lambda result: None, at_once=4)
        results.close(complete=True)
    assert max(map(len, sampled)) == 2
    assert len(sampled) < 8
    for job in jobs:
        options = job.options
        inputs = read_inputs(options)
        alone = tiny_model.generate(
            image=inputs.image,
            mask=inputs.selection,
            negative_text=options.negative_text,
            seconds=options.seconds,
            steps=2,
            seed=options.seed,
            batch=options.batch,
            level=False,
        ).waveform
        together = written[str(options.out)]
        assert together.shape == alone.shape
        assert (together - alone).abs().max() < 1e-3 * alone.abs().max()


def test_a_device_that_fails_and_a_full_disk_end_the_run_and_ctrl_c_keeps_what_is_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jobs(folder, *({"mask": "left.png", "seed": seed, "out": f"{seed}.wav"} for seed in range(3)))
    sounds, calls = Synthesizer.sounds, []

    def at_the_second(error: BaseException) -> Any:
        def raising(self: Synthesizer, *args: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise error
            return sounds(self, *args)

        return raising

    monkeypatch.setattr(Synthesizer, "sounds", at_the_second(KeyboardInterrupt()))
    stopped = run(folder)
    assert stopped.exit_code == 130, stopped.output
    assert "1 of 3 jobs are done, and the same command goes on" in stopped.stderr
    assert [one["status"] for one in told(stopped)] == ["done"]

    with monkeypatch.context() as full:
        full.setattr(Synthesizer, "sounds", sounds)

        def no_room(path: Path, data: bytes) -> None:
            raise FullDiskError(28, f"{path} cannot be written, the disk is full; make room.")

        full.setattr("sounding.jobs.results.write_atomic", no_room)
        ended = run(folder)
        assert ended.exit_code == 1
        assert "the disk is full" in ended.stderr
        assert [one["status"] for one in told(ended)] == ["kept"]

    calls.clear()
    monkeypatch.setattr(Synthesizer, "sounds", at_the_second(RuntimeError("something inside")))
    last = run(folder)
    assert last.exit_code == 3
    assert [one["status"] for one in told(last)] == ["kept", "done", "failed"]
    assert [one["status"] for one in told(run(folder))] == ["kept", "kept", "done"]
    assert left_to_do([], Results(folder / "none"), lambda result: None) == []


def test_items_that_a_thread_makes_ahead_come_in_order_and_end_with_their_error_or_a_stop() -> None:
    assert list(in_thread(iter(range(5)), threading.Event())) == [0, 1, 2, 3, 4]

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    failing = in_thread(broken(), threading.Event())
    assert next(failing) == 1
    with pytest.raises(ValueError, match="broken"):
        next(failing)
    stop = threading.Event()
    assert next(in_thread(itertools.count(), stop)) == 0
    stop.set()
    for thread in threading.enumerate():
        if thread.name == "sounding-grounder":
            thread.join()


def test_what_memory_holds_and_processes_share(
    folder: Path, tiny_model: SoundingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.5, 0.5, 4.0, 0.5, 4.0, 0.3]
    jobs = jobs_of(folder, monkeypatch, *({"seconds": each, "out": f"{i}.wav"} for i, each in enumerate(seconds)))
    config = tiny_model.config
    short, long = (sampling_of(jobs[i], config) for i in (0, 2))
    assert rows_within(config, short, 0) == 1
    assert rows_within(config, short, 1e15) == MOST_ROWS
    few, more = (rows_within(config, each, 2e7) for each in (long, short))
    assert 1 <= few < more
    batches = plan(jobs, config, torch.device("cpu"), at_once=2)
    assert [[job.line for job in batch.jobs] for batch in batches] == [[1, 2], [4], [3, 5], [6]]
    mine, others = shares(jobs, 0, 2), shares(jobs, 1, 2)
    assert sorted(job.line for job in [*mine, *others]) == [1, 2, 3, 4, 5, 6]
    for share in (mine, others):
        assert sum(job.options.seconds == 4 for job in share if isinstance(job, Job)) == 1


def test_all_options_are_keys_of_jobs() -> None:
    of_runs = {"out_dir", "results", "at_once", "jobs", "model", "device", "precision", "as_json", "scheduler"}
    of_one_sound = {"context", "stems", "stems_placed", "audio", "region", "after", "before"}
    of_one_sound |= {"video", "mask_video", "fps", "follow_size"}
    options = {"rate" if name == "to_rate" else name for name in inspect.signature(generate).parameters}
    keys = {one.name for one in dataclasses.fields(JobLine)}
    assert options - of_runs - of_one_sound == keys
