"""What a refinement costs: memory by the length of the list, clips per second by CPUs, CPU seconds by step.

    python -m benchmarks.refine memory
    python -m benchmarks.refine speed

`memory` takes made-up lists through steps that make up their results, with the columns of the real ones, on Ray with
two CPUs; every list in a process of its own. `speed` decodes made-up videos and runs the stand-ins on them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any, Literal

import numpy as np
import psutil  # type: ignore[import-untyped]
import typer

from training.cluster.rows import Column, Row
from training.cluster.settings import EngineSettings, Resources
from training.refine import pipeline
from training.refine.lists import list_clips
from training.refine.outcome import Results, parts_of
from training.refine.settings import ListSettings, RefineSettings, read_settings
from training.refine.shards import sources
from training.refine.step import Step, measured
from training.refine.steps import steps_of
from training.refine.steps.captions import CaptionStep
from training.refine.steps.clips import ClipStep
from training.refine.steps.events import EventStep

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # the sampler must not start a cluster of its own
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, workers count as much as the first process
LABELS = ("dog", "cat", "rain", "train", "music")
app = typer.Typer(help=__doc__)


class MadeUp(Step):
    """A step with the columns of another one and values of a usual size; it drops one clip in eight."""

    def __init__(self, like: type[Step]):
        super().__init__(Resources(cpus=0.5, workers=2, batch=64))
        self.name = like.name
        self.columns = like.columns  # type: ignore[misc]

    def settings(self) -> dict[str, Any]:
        """See Step."""
        return {"made": "up"}

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        return [{name: _value(column, row["id"]) for name, column in self.columns.items()} for row in rows]

    def verdict(self, row: Row) -> str:
        """See Step."""
        return "It is one in eight." if random.Random(f"{self.name} {row['id']}").random() < 1 / 8 else ""


def _value(column: Column, name: str) -> Any:
    one = {"text": f"What is heard in {name} and what is seen there, in one sentence of a usual length.", "number": 0.5}
    many = {"texts": [f"a dog runs in a garden, {number}" for number in range(10)], "numbers": [0.1] * 10}
    return {**one, **many, "count": 1}[column.kind]


class Peaks:
    """The largest resident sets of this process and of Ray's workers, and the most that is in the object store."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {"driver": 0.0, "worker": 0.0, "workers": 0.0, "object store": 0.0}
        self.ended = Event()

    def watch(self) -> None:
        """Look until `ended` is set."""
        me = psutil.Process()
        while not self.ended.wait(0.25):
            workers = [_resident(process) for process in workers_of(me)]
            self._see("driver", _resident(me))
            self._see("worker", max(workers, default=0.0))
            self._see("workers", sum(workers))
            self._see("object store", _stored())

    def _see(self, name: str, value: float) -> None:
        self.found[name] = max(self.found[name], value)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Processes that run steps."""
    found = []
    for child in process.children(recursive=True):
        try:
            if " ".join(child.cmdline()).startswith("ray::MapWorker"):
                found.append(child)
        except psutil.Error:
            continue
    return found


def _resident(process: psutil.Process) -> float:
    """MB that are the process's own: Ray's object store is mapped into all of them."""
    try:
        memory = process.memory_info()
        return (memory.rss - memory.shared) / 1e6
    except psutil.Error:
        return 0.0


def _stored() -> float:
    """MB in the object stores."""
    try:
        import ray

        if not ray.is_initialized():
            return 0.0
        name = "object_store_memory"
        return (ray.cluster_resources().get(name, 0.0) - ray.available_resources().get(name, 0.0)) / 1e6
    except Exception:  # Ray is being stopped
        return 0.0


def made_up_list(folder: Path, count: int) -> None:
    """`list.csv` in VGG-Sound's form, and an empty file per video."""
    draw = random.Random(0)
    (folder / "videos").mkdir(parents=True)
    with (folder / "list.csv").open("w") as file:
        for number in range(count):
            name = f"{draw.getrandbits(40):010x}{number % 10}"
            file.write(f'{name},{draw.randrange(300)},"{draw.choice(LABELS)}",train\n')
            (folder / "videos" / f"{name}.mp4").touch()


def refine_made_up(count: int, kind: Literal["ray", "local"], slab: int) -> dict[str, float]:
    """Peaks of a refinement of `count` listed clips."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made_up_list(folder, count)
        settings = RefineSettings(
            out=str(folder / "out"),
            lists=(ListSettings("vggsound", videos=str(folder / "videos"), csv=str(folder / "list.csv")),),
            engine=EngineSettings(kind=kind, cpus=2, object_store_mb=256, slab=slab),
            **{"labels": read_labels(folder)},  # type: ignore[arg-type]
        )
        steps = [MadeUp(ClipStep), MadeUp(EventStep), MadeUp(CaptionStep), steps_of(settings)[-1]]
        pipeline.steps_of = lambda *given: steps
        pipeline.write_raw = _go_through
        peaks = Peaks()
        watcher = Thread(target=peaks.watch, daemon=True)
        watcher.start()
        began = time.monotonic()
        made = pipeline.refine(settings)
        peaks.ended.set()
        watcher.join()
        return {**peaks.found, "listed": made.listed, "kept": made.kept, "seconds": time.monotonic() - began}


def _go_through(out: Any, rows: Any, settings: Any) -> dict[str, Any]:
    """What is done with rows for shards, without a video to decode."""
    for source in sources(rows, settings).values():
        source.settings()
    return {}


def read_labels(folder: Path) -> Any:
    """Names alone, since there is no ontology."""
    file = folder / "settings.yaml"
    file.write_text("out: o\nlists: [{form: folder, videos: v}]\nlabels: {drop: [music], spare: []}\n")
    return read_settings(file).labels


@app.command()
def memory(
    sizes: Annotated[str, typer.Option(help="Listed clips, one row each.")] = "20000,80000,320000",
    slab: Annotated[int, typer.Option(help="engine.slab.")] = 20_000,
    local: Annotated[bool, typer.Option("--local", help="Without Ray and its share of the first process.")] = False,
    one: Annotated[int, typer.Option(help="Only print the peaks for one size, as JSON.")] = 0,
) -> None:
    """Print peaks of memory as a Markdown table."""
    if one:
        print(json.dumps(refine_made_up(one, "local" if local else "ray", slab)))
        return
    print("| listed clips | kept | object store, MB | one worker, MB | all workers, MB | first process, MB | minutes |")
    print("| --- |" + " --- |" * 6)
    for size in sizes.split(","):
        command = [sys.executable, "-m", "benchmarks.refine", "memory", "--one", size, "--slab", str(slab)]
        command += ["--local"] if local else []
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        found = json.loads(said.strip().splitlines()[-1])
        columns = [found[name] for name in ("object store", "worker", "workers", "driver")]
        numbers = " | ".join(f"{value:.0f}" for value in columns)
        print(f"| {found['listed']:,} | {found['kept']:,} | {numbers} | {found['seconds'] / 60:.1f} |", flush=True)


def write_videos(folder: Path, videos: int, seconds: int) -> None:
    """Moving textures and noise, 320 x 240 at 25 frames per second."""
    import av

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(videos):
        with av.open(str(folder / f"video{number}.mp4"), "w") as container:
            images = container.add_stream("libx264", rate=25, width=320, height=240, pix_fmt="yuv420p")
            sounds = container.add_stream("aac", rate=44_100, layout="mono")
            texture = draw.integers(0, 255, (60, 80, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            for count in range(25 * seconds):
                moved = np.ascontiguousarray(texture[count % 240 : count % 240 + 240, count % 320 : count % 320 + 320])
                container.mux(images.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            for second in range(seconds):
                wave = (draw.normal(0, 3000, (1, 44_100))).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                heard.sample_rate, heard.pts = 44_100, second * 44_100
                container.mux(sounds.encode(heard))
            for stream in (images, sounds):
                container.mux(stream.encode(None))


def stand_ins(folder: Path, out: Path, kind: str, cpus: int) -> RefineSettings:
    """Settings with all stand-ins, for a folder of videos and a classifier of sounds."""
    file = out.with_suffix(".yaml")
    judge = folder / "judge.safetensors"
    shared = "resources: {cpus: 0.4, workers: 4, batch: 2}"
    file.write_text(f"""
out: {out}
lists: [{{form: folder, videos: {folder}/videos}}]
engine: {{kind: {kind}, cpus: {cpus}, object_store_mb: 80, block: 2}}
labels: {{drop: [], spare: []}}
clips: {{{shared}}}
matching: {{scorer: names, sounds: {judge}, threshold: 0, frames_per_second: 1, device: cpu, {shared}}}
events: {{model: {judge}, drop: [], spare: [], {shared}}}
captions: {{frames: names, device: cpu, {shared}}}
rephrase: {{{shared}}}
""")
    return read_settings(file)


@contextmanager
def only_cpus(count: int) -> Iterator[None]:
    """This process and its children on some of the CPUs: Ray counts them, but holds nobody to them."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def cpu_seconds(used: dict[int, float]) -> float:
    """That this process and the workers have used; `used` keeps those of workers that have ended since."""
    me = psutil.Process()
    for process in [me, *workers_of(me)]:
        with suppress(psutil.Error):
            used[process.pid] = sum(process.cpu_times()[:2])
    return sum(used.values())


def speed_on(folder: Path, out: Path, cpus: int) -> tuple[float, float]:
    """Clips per second and per CPU second, from the first clip that came through to the last one."""
    settings = stand_ins(folder, out, "ray", cpus)
    steps = steps_of(settings)
    seen: list[tuple[int, float, float]] = []
    used: dict[int, float] = {}

    def on_progress(came: int, count: int) -> None:
        seen.append((came, time.monotonic(), cpu_seconds(used)))

    out.mkdir()
    with only_cpus(cpus):
        listed = list_clips(settings)
        pipeline.measure(settings, listed.rows, steps, parts_of(out, steps), on_progress, lambda text: None)
    (first, began, used_before), (last, ended, used_then) = seen[0], seen[-1]
    return (last - first) / (ended - began), (last - first) / (used_then - used_before)


def cost_by_step(folder: Path, out: Path) -> dict[str, float]:
    """CPU seconds per clip of each step in this process, after a first batch that loads its model."""
    settings = stand_ins(folder, out, "local", 1)
    steps = steps_of(settings)
    rows = Results(steps, parts_of(out, steps)).open_rows(list(list_clips(settings).rows))
    found = {}
    for step in steps:
        step.open()
        for row, result in zip(rows[:2], measured(step, rows[:2]), strict=True):
            row.update(result)
        began = time.process_time()
        results = measured(step, rows[2:])
        found[step.name] = (time.process_time() - began) / len(rows[2:])
        for row, result in zip(rows[2:], results, strict=True):
            row.update(result)
    return found


@app.command()
def speed(
    videos: Annotated[int, typer.Option(help="Videos of 40 s, four clips each.")] = 10,
    repeats: Annotated[int, typer.Option(help="Runs with each number of CPUs, in turn.")] = 2,
) -> None:
    """Print clips per second with one and two CPUs, and CPU seconds by step."""
    import torch

    from training.evaluate.models.classifier import Classifier, write_classifier

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_videos(folder / "videos", videos, 40)
        write_classifier(folder / "judge.safetensors", Classifier(len(LABELS)).eval(), LABELS)
        print(f"{4 * videos} clips of 10 s, load before: {os.getloadavg()[0]:.1f}\n")
        print("| step | CPU seconds per clip |\n| --- | --- |")
        for name, seconds in cost_by_step(folder, folder / "alone").items():
            print(f"| {name} | {seconds:.3f} |", flush=True)
        print("\n| CPUs | clips per second | clips per CPU second | load |\n| --- | --- | --- | --- |")
        for repeat in range(repeats):
            for cpus in (1, 2):
                wall, used = speed_on(folder, folder / f"out{repeat}{cpus}", cpus)
                print(f"| {cpus} | {wall:.3f} | {used:.3f} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    app()
