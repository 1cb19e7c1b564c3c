"""The starter from nothing: all stages, each as soon as what it needs is there.

| stage | needs | makes |
| --- | --- | --- |
| scenes | | raw shards of scenes |
| vae, encoders | | the parts that learn by themselves |
| vocoder | vae | what becomes of decoded spectrograms |
| features | scenes, encoders, vae | what the frozen parts make of the scenes |
| conditions | features | grounding, and the statistics of conditions |
| cuts | conditions | the U-Net on short cuts of the sounds |
| grounded | cuts | the U-Net on whole ones |
| trajectories | grounded | the sampler's ways from noise to sounds |
| segmenter | encoders | what a click selects |
| starter | trajectories, vocoder, segmenter | few steps; the whole model in one file |

A stage whose result is there is not run again, and one that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sounding.checkpoint import read_header
from sounding.model import SoundingModel

from ..data.object_set import read_set
from ..data.scene_source import SceneSource
from ..data.shard_writer import make_shards
from ..data.trajectories import TrajectorySettings, TrajectorySource
from ..initialization import initialize
from ..recipe import RECIPES, Recipe, read_recipe
from ..run import run
from .calibrate import calibrate
from .replayed import ReplayedFeatures

log = logging.getLogger("training")
# What each stage needs, in the order in which stages begin where several could.
NEEDS: dict[str, tuple[str, ...]] = {
    "vae": (),
    "encoders": (),
    "scenes": (),
    "features": ("scenes", "encoders", "vae"),
    "conditions": ("features",),
    "cuts": ("conditions",),
    "grounded": ("cuts",),
    "vocoder": ("vae",),
    "segmenter": ("encoders",),
    "trajectories": ("grounded",),
    "starter": ("trajectories", "vocoder", "segmenter"),
}


@dataclass(frozen=True)
class Amounts:
    """How much the stages that prepare data make."""

    scenes: int = 6000
    captions: int = 3  # per scene
    frames: int = 2  # further ones, of ImageNet's classes
    trajectories: int = 1  # per scene


def stage_recipe(stage: str, data: Path, out: Path, folder: Path = RECIPES / "starter") -> Recipe:
    """A stage's recipe, with its places moved to `data` and `out`.

    Args:
        stage: one that trains.
        data: folder of the objects to train with.
        out: gets a folder per stage.
        folder: of the recipes.
    """
    plain: Recipe = read_recipe(folder / f"{stage}.yaml")
    moved = [f"out={out}"]
    if plain.data.shards:
        moved.append(f"data.shards={out / Path(str(plain.data.shards)).name}")
    else:
        moved.append(f"data.stamps={data}")
    if cache := getattr(plain.settings, "cache", ""):
        moved.append(f"{plain.task}.cache={out / Path(cache).name}")
    for part, place in plain.start.items():
        if place.endswith(".safetensors"):
            moved.append(f"start.{part}={out / Path(place).parent.name / Path(place).name}")
    recipe: Recipe = read_recipe(folder / f"{stage}.yaml", overrides=moved)
    return recipe


def run_stage(
    stage: str, data: Path, out: Path, folder: Path = RECIPES / "starter", amounts: Amounts | None = None
) -> None:
    """Run one stage, whose needs are there; see `train_starter`."""
    given = amounts or Amounts()
    if stage == "scenes":
        recipe: Recipe = read_recipe(folder / "grounded.yaml")
        like = recipe.model
        scenes = SceneSource(
            data,
            scenes=given.scenes,
            split="train",
            seconds=like.train_seconds,
            size=like.patches.image_size,
            captions=given.captions,
        )
        make_shards(scenes, out / "scenes")
        return
    if stage == "features":
        model = initialize(stage_recipe("conditions", data, out, folder))  # of which only what stays frozen is used
        make_shards(ReplayedFeatures(out / "scenes", model, read_set(data).visible, given.frames), out / "features")
        return
    if stage == "trajectories":
        model = SoundingModel.from_pretrained(out / "grounded" / "grounded.safetensors")
        settings = TrajectorySettings(steps=8, points=4, per_clip=given.trajectories)  # for a student of 4
        make_shards(TrajectorySource(out / "features", model, settings), out / "trajectories")
        return
    recipe = stage_recipe(stage, data, out, folder)
    run(recipe)  # which finds a finished run, and refuses one of other settings or data
    if stage == "conditions" and not read_header(recipe.result).config.grounding.backdrops:
        calibrate(recipe.result, out / "features", recipe.result, read_set(data).visible)


def train_starter(
    data: Path, out: Path, folder: Path = RECIPES / "starter", *, at_once: int = 2, amounts: Amounts | None = None
) -> Path:
    """Train all stages and return the checkpoint with all of them.

    Args:
        data: folder of the objects to train with (`python -m training starter data`).
        out: gets a folder per stage, and a log of each.
        folder: of the recipes.
        at_once: stages that run beside each other, each in a process with an equal share of the processor's cores.
        amounts: see `Amounts`.

    Raises:
        FileNotFoundError, ValueError: no objects there, or a damaged list of them.
        RuntimeError: a stage failed; no further one begins, and those that run are waited for.
    """
    read_set(data)  # whether they are there should be known now, not after hours
    threads = max(1, (os.cpu_count() or 1) // at_once)
    start = partial(_in_process, data=data, out=out, folder=folder, amounts=amounts or Amounts(), threads=threads)
    in_order(NEEDS, start, at_once)
    return stage_recipe("starter", data, out, folder).result


def in_order(needs: dict[str, tuple[str, ...]], start: Callable[[str], None], at_once: int) -> None:
    """Call `start` with every stage, after those that it needs, `at_once` at a time at most.

    Raises:
        Exception: whatever `start` raises first, once all that run have ended.
    """
    done: set[str] = set()
    running: dict[Future[None], str] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while len(done) < len(needs):
            waiting = [stage for stage in needs if stage not in done and stage not in running.values()]
            ready = [stage for stage in waiting if done.issuperset(needs[stage])]
            for stage in ready[: at_once - len(running)]:
                running[pool.submit(start, stage)] = stage
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                stage = running.pop(ended)
                ended.result()
                done.add(stage)
                log.info("%s is done, %d of %d", stage, len(done), len(needs))


def _in_process(stage: str, *, data: Path, out: Path, folder: Path, amounts: Amounts, threads: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    options = [f"--{name}={value}" for name, value in vars(amounts).items()]
    command = [sys.executable, "-m", "training", "starter", "train", "--stage", stage]
    command += ["--data", str(data), "--out", str(out), "--recipes", str(folder), *options]
    place = out / f"{stage}.log"
    log.info("%s begins; its log is %s", stage, place)
    with place.open("ab") as file:
        ended = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            cwd=Path(__file__).parents[2],
            stdout=file,
            stderr=file,
            check=False,
        )
    if ended.returncode:
        last = place.read_text(encoding="utf-8", errors="replace").strip().rsplit("\n", 1)[-1]
        raise RuntimeError(f"The stage {stage} ended with {ended.returncode} ({last[:500]}); {place} has its log.")
