"""Many sounds by one command against the sum of its parts, and how busy it keeps a GPU.

    python -m benchmarks.many --device cpu --jobs 16 --steps 4
    python -m benchmarks.many --device cuda --jobs 512

Each job has an image of its own, a mask, and 5 s of sound. First each part is measured by itself over all jobs, with
nothing beside it: reading, seeing, grounding, sampling, decoding, vocoding (the three in the same batches) and writing.
Then the same jobs run as `sounding generate --jobs` runs them. On a CPU the aim is at most 1.1 times the sum; less
than the sum is what overlapping gains. On a GPU it is a utilisation of 0.9: the share of the run in which kernels
were running, by CUDA's own record.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.generate import now
from sounding.audio.files import write_audio
from sounding.audio.loudness import level
from sounding.cli.demo import OBJECTS, SCENE, demo_images
from sounding.grounding import Condition
from sounding.images.files import read_image, write_image
from sounding.jobs.inputs import read_inputs
from sounding.jobs.job import Job, read_jobs, setting_of
from sounding.jobs.planning import plan
from sounding.jobs.results import DONE, Results
from sounding.jobs.run import run_jobs
from sounding.model import SoundingModel, load

PARTS = ("read", "see", "ground", "sample", "decode", "vocode", "write")


def write_material(folder: Path, count: int, seconds: float, steps: int | None) -> Path:
    """A jobs file of `count` jobs, each with an image of its own: the demo's, a little brighter each time."""
    scene = read_image(demo_images() / f"{SCENE}.png")[0]
    with (folder / "jobs.jsonl").open("w") as file:
        for number in range(count):
            write_image(folder / f"{number}.png", scene * (1 - number / (4 * count)))
            mask = demo_images() / f"{SCENE}_mask_{OBJECTS[number % len(OBJECTS)]}.png"
            job = {"image": str(folder / f"{number}.png"), "mask": str(mask), "seconds": seconds, "seed": number}
            job |= {"out": f"{number}.wav"} | ({} if steps is None else {"steps": steps})
            file.write(json.dumps(job) + "\n")
    return folder / "jobs.jsonl"


def measure_parts(model: SoundingModel, jobs: list[Job], at_once: int | None, folder: Path) -> dict[str, float]:
    """Seconds of each part over all jobs."""
    device, rate = model.require("unet").device, model.config.audio.sample_rate
    spent = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = now(device)
        yield
        spent[part] += now(device) - start

    for batch in plan(jobs, model.config, device, at_once):
        conditions = []
        for job in batch.jobs:
            with timed("read"):
                inputs = read_inputs(job.options)
            with timed("see"):
                patches = model.see(inputs.image)
            with timed("ground"):
                conditions.append(model.ground(patches, mask=inputs.selection))
        seconds = batch.jobs[0].options.seconds
        with timed("sample"):
            noise = model.noise(seconds, [job.options.seed for job in batch.jobs])
            latents = model.sample(Condition.cat(conditions), noise, steps=batch.sampling.steps)
        with timed("decode"):
            mel = model.decode(latents)
        with timed("vocode"):
            waveform = model.vocode(mel, seconds)
        with timed("write"):
            for job, sound in zip(batch.jobs, waveform, strict=True):
                write_audio(folder / job.options.out.name, level(sound[None].cpu(), rate)[0], rate)
    return spent


def measure_whole(model: SoundingModel, jobs: list[Job], at_once: int | None, folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, of the same jobs as the command runs them."""
    statuses = []
    results = Results(folder / "jobs.results.jsonl")
    results.open()
    start, processor = now(model.require("unet").device), time.process_time()
    run_jobs(model, jobs, results, lambda result: statuses.append(result["status"]), at_once=at_once)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    results.close(complete=True)
    if statuses != [DONE] * len(jobs):
        raise RuntimeError(f"{len(statuses)} of {len(jobs)} jobs came, with {set(statuses)}.")
    return seconds, processor


def busy_share(work: Callable[[], tuple[float, float]]) -> float:
    """The share of the time of `work` in which the GPU ran at least one kernel, by the record that CUPTI keeps."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        whole, _ = work()
    spans = [
        (event.start_ns(), event.end_ns())
        for event in profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.device_type() == torch.autograd.DeviceType.CUDA
    ]
    return covered(spans) / 1e9 / whole


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How long at least one of the spans lasts: what several share counts once."""
    total = end = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="Number of jobs.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of each sound.")] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the checkpoint's own without it.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of both sides in turn; medians count.")] = 3,
    at_once: Annotated[int | None, typer.Option(help="Sounds per batch at most, as the command's.")] = None,
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
) -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = write_material(folder, jobs, seconds, steps)
        loaded = load(model, device=device)
        parts: list[dict[str, float]] = []
        wholes: list[tuple[float, float]] = []
        processors: list[float] = []
        for repeat in range(repeats + 1):  # the first one warms up, with a few jobs
            out = folder / str(repeat)
            found = read_jobs(lines, setting_of(model, {}, out))
            todo = [job for job in found if isinstance(job, Job)][: jobs if repeat else min(jobs, 8)]
            before = time.process_time()
            measured = measure_parts(loaded, todo, at_once, folder / "parts")
            processor = time.process_time() - before
            whole = measure_whole(loaded, todo, at_once, out)
            if repeat:
                parts.append(measured)
                processors.append(processor)
                wholes.append(whole)
        busy = None
        if torch.device(device).type == "cuda":
            again = [job for job in read_jobs(lines, setting_of(model, {}, folder / "busy")) if isinstance(job, Job)]
            busy = busy_share(lambda: measure_whole(loaded, again, at_once, folder / "busy"))
    medians = {part: statistics.median(one[part] for one in parts) for part in PARTS}
    total, whole_seconds = sum(medians.values()), statistics.median(seconds for seconds, _ in wholes)
    threads = f"{torch.get_num_threads()} threads, " if torch.device(device).type == "cpu" else ""
    print(
        f"{jobs} jobs of {seconds:g} s, {steps or 'own'} steps, {model} on {device}, {threads}torch {torch.__version__}"
    )
    print(f"\n| median of {repeats} | seconds | per job |\n| --- | --- | --- |")
    for part, spent in medians.items():
        print(f"| {part} | {spent:.3f} | {spent / jobs:.4f} |")
    print(f"| sum of parts | {total:.3f} | {total / jobs:.4f} |")
    print(f"| `--jobs` | {whole_seconds:.3f} | {whole_seconds / jobs:.4f} |")
    ratios = [whole / sum(one.values()) for (whole, _), one in zip(wholes, parts, strict=True)]
    print(f"\n`--jobs` / sum of parts: {statistics.median(ratios):.2f}")
    used = statistics.median(one / other for (_, one), other in zip(wholes, processors, strict=True))
    print(f"In processor seconds: {used:.2f}")
    print(f"Seconds of sound per second: {jobs * seconds / whole_seconds:.1f}")
    if busy is not None:
        print(f"GPU utilisation: {busy:.2f}")


if __name__ == "__main__":
    typer.run(main)
