"""`python -m training prepare videos | pairs | stamps | masks | features | trajectories`: material into shards.

Every command can be interrupted and run again: finished shards stay (`shard_format.py`). What cannot be used is
skipped, and listed in `shards.json` with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sounding.cli.terminal import command_group, plain_errors

from ..cluster.options import AddressOption, CpusOption, GpusOption, MostWorkersOption, RayOption, chosen_engine

if TYPE_CHECKING:
    from sounding.config import Sampler
    from sounding.utils.process_group import ProcessGroup

    from ..cluster.settings import EngineSettings, Resources
    from .shard_format import Skipped
    from .shard_stage import OpenSource
    from .shard_writer import Elsewhere, OnProgress
    from .source import Source

app = command_group("Turn videos, images with sounds, or stamps into shards, and shards into features.")

SHOWN = 5  # skipped samples on the screen; shards.json has all


class Form(str, Enum):
    """Of a list of clips."""

    audiocaps = "audiocaps"
    audioset = "audioset"
    vggsound = "vggsound"


class ClipSplit(str, Enum):
    """Of a list that names splits."""

    train = "train"
    test = "test"
    all = "all"


class SplitName(str, Enum):
    """Of scenes."""

    train = "train"
    held_out = "held-out"


OutOption = Annotated[Path, typer.Option(help="Folder for the shards; an unfinished one is gone on with.")]
SizeOption = Annotated[int, typer.Option(help="Shorter side of the images, in pixels.")]
WorkersOption = Annotated[int, typer.Option(help="Processes; 0 works in the first one, -1 takes one a core.")]
ShardOption = Annotated[int, typer.Option(help="Samples a shard.")]
LicenceOption = Annotated[str, typer.Option(help="Licence of the material, kept with every sample.")]


@app.command()
def videos(
    csv: Annotated[Path, typer.Option(help="AudioSet's segments, VGG-Sound's or AudioCaps' CSV.")],
    videos: Annotated[Path, typer.Option(help="Folder with YTID.ext (whole) or YTID_START.ext (cut clips).")],
    out: OutOption,
    form: Annotated[Form | None, typer.Option(help="Of the CSV; without it the first line tells.")] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Videos to keep out: the test set's CSV, or one id per line. Several may be given."),
    ] = None,
    split: Annotated[ClipSplit, typer.Option(help="Of VGG-Sound's list, which has both.")] = ClipSplit.train,
    classes: Annotated[Path | None, typer.Option(help="AudioSet's class_labels_indices.csv.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 10.0,
    frames: Annotated[int, typer.Option(help="Images a clip, evenly spaced.")] = 10,
    size: SizeOption = 256,
    licence: LicenceOption = "unknown",
    workers: WorkersOption = -1,
    shard_size: ShardOption = 1000,
) -> None:
    """Clips of videos that a CSV lists."""
    with plain_errors("training"):
        from .clip_lists import read_clips, without
        from .videos import VideoSource

        clips = read_clips(csv, form.value if form else None, classes)
        kept, left_out = without(clips, exclude or (), None if split is ClipSplit.all else split.value)
        source = VideoSource(
            kept, videos, seconds=seconds, frames=frames, size=size, licence=licence, left_out=left_out
        )
        _run(source, out, shard_size, workers)


@app.command()
def pairs(
    folder: Annotated[Path, typer.Argument(help="With STEM.jpg, STEM.wav and maybe STEM_mask.png, STEM.txt.")],
    out: OutOption,
    seconds: Annotated[
        float, typer.Option(help="Usual length; sound is kept up to six times that and cut there.")
    ] = 10,
    size: SizeOption = 512,
    licence: LicenceOption = "unknown",
    workers: WorkersOption = -1,
    shard_size: ShardOption = 1000,
) -> None:
    """Images and sounds of the same name; licence.txt beside or above them says their licence."""
    with plain_errors("training"):
        from .pairs import PairSource

        source = PairSource(folder, seconds=seconds, size=size, licence=licence)
        _run(source, out, shard_size, workers)


@app.command()
def stamps(
    out: OutOption,
    data: Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")] = Path("data/stamps"),
    scenes: Annotated[int, typer.Option(help="How many.")] = 5000,
    split: Annotated[SplitName, typer.Option(help="Scenes of the two are never the same.")] = SplitName.train,
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 2.56,
    size: Annotated[int, typer.Option(help="Side of the square image, in pixels; the starter takes 288.")] = 288,
    captions: Annotated[int, typer.Option(help="Sentences a scene.")] = 2,
    workers: WorkersOption = -1,
    shard_size: ShardOption = 1000,
) -> None:
    """Scenes of cut-outs with the mix of what sounds in them."""
    with plain_errors("training"):
        from .scene_source import SceneSource

        source = SceneSource(data, scenes=scenes, split=split.value, seconds=seconds, size=size, captions=captions)
        _run(source, out, shard_size, workers)


@app.command()
def features(
    raw: Annotated[list[str], typer.Option(help="Folder of raw shards, or a pattern; several may be given.")],
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint; its encoders and VAE make the features.")],
    out: OutOption,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch: Annotated[int, typer.Option(help="Samples at once; fewer need less memory.")] = 16,
    threads: Annotated[int, typer.Option(help="Threads that read and decode for the model.")] = 4,
    seconds: Annotated[
        float | None, typer.Option(help="model.train_seconds of the recipe; without it the checkpoint's own.")
    ] = None,
    shard_size: ShardOption = 1000,
    ray: RayOption = False,
    address: AddressOption = "",
    most_workers: MostWorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """What the frozen encoders and the VAE make of raw shards, so that training need not run them.

    On several GPUs: `--ray --gpus 1`, or `accelerate launch --num_processes N -m training prepare features ...`.
    """
    with plain_errors("training"):
        engine = chosen_engine(ray, address, most_workers, cpus, gpus, device)
        from .features import OpenFeatures

        open_source = OpenFeatures(tuple(raw), model, batch, threads, seconds)
        _run_on_device(open_source, "features", device, out, shard_size, engine)


@app.command()
def masks(
    shards: Annotated[list[str], typer.Option(help="Folder of raw shards, or a pattern; several may be given.")],
    out: OutOption,
    sam: Annotated[
        str, typer.Option(help="starter, sam_vit_b_01ec64.pth, or a folder of SAM 2 or SAM 3 as `sounding fetch` gets.")
    ] = "starter",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    shard_size: ShardOption = 1000,
    ray: RayOption = False,
    address: AddressOption = "",
    most_workers: MostWorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """Raw shards with a segmenter's masks, for `grounding.mask_training`; samples that have masks keep theirs.

    SAM 3 is asked for what the captions name, others at a grid of points. On several GPUs: as `features`.
    """
    with plain_errors("training"):
        engine = chosen_engine(ray, address, most_workers, cpus, gpus, device)
        from .masks import OpenMasks

        _run_on_device(OpenMasks(tuple(shards), sam), "masks", device, out, shard_size, engine)


@app.command()
def trajectories(
    features: Annotated[list[str], typer.Option(help="Folder of features, or a pattern; several may be given.")],
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint, the teacher.")],
    out: OutOption,
    steps: Annotated[int, typer.Option(help="Of the teacher's sampler; a multiple of --points.")] = 16,
    points: Annotated[int, typer.Option(help="Latents kept per trajectory; a multiple of the student's steps.")] = 8,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale; without it the checkpoint's own.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim or dpm++; without it the checkpoint's own.")] = None,
    masks: Annotated[float, typer.Option(help="Share of clips selected by mask, the others by caption.")] = 0.5,
    backgrounds: Annotated[float, typer.Option(help="Share of clips in which what is no object is selected.")] = 0.05,
    per_clip: Annotated[int, typer.Option(help="Trajectories per clip.")] = 1,
    seed: Annotated[int, typer.Option(help="Of noise and selections.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch: Annotated[int, typer.Option(help="Trajectories at once; fewer need less memory.")] = 16,
    shard_size: ShardOption = 1000,
    ray: RayOption = False,
    address: AddressOption = "",
    most_workers: MostWorkersOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
) -> None:
    """What a trained model's sampler makes of noise on its way, for distillation to few steps.

    On several GPUs: as `features`.
    """
    with plain_errors("training"):
        engine = chosen_engine(ray, address, most_workers, cpus, gpus, device)
        from .trajectories import OpenTrajectories, TrajectorySettings

        chosen = cast("Sampler | None", sampler)  # the settings say which there are
        settings = TrajectorySettings(steps, points, cfg, chosen, masks, backgrounds, per_clip, seed)
        _run_on_device(
            OpenTrajectories(tuple(features), model, settings, batch), "trajectories", device, out, shard_size, engine
        )


def _run_on_device(
    open_source: OpenSource,
    name: str,
    device: str,
    out: Path,
    shard_size: int,
    engine: tuple[EngineSettings, Resources] | None,
) -> None:
    """Make the shards of a source with a model: in the processes of a launcher, or by the workers of an engine."""
    from sounding.utils.process_group import launched

    if engine is None:
        with launched() as group:
            _run(open_source(_device(device, group)), out, shard_size, 0, group)
        return
    from .shard_stage import ByEngine, ShardStage, describe

    source = open_source("cpu")  # this process computes nothing
    settings, resources = engine
    stage = ShardStage(name, open_source, device, out, shard_size, describe(source), resources)
    _run(source, out, shard_size, 0, elsewhere=ByEngine(settings, stage))


def _device(asked: str, group: ProcessGroup) -> str:
    """Where a process of a group computes: each on a GPU of its own, where there are some."""
    import torch

    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{group.local_rank}"
    if asked == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return asked


def _run(
    source: Source,
    out: Path,
    shard_size: int,
    workers: int,
    group: ProcessGroup | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Make the shards with a bar, and say what came of it; of a group of processes only the first one speaks."""
    import os

    from sounding.utils.process_group import ALONE

    from .shard_writer import make_shards

    group = group or ALONE
    try:
        with _bar(len(source)) if group.is_first else nullcontext() as on_progress:
            index = make_shards(
                source,
                out,
                shard_size=shard_size,
                workers=(os.cpu_count() or 1) if workers == -1 else workers,
                on_progress=on_progress,
                group=group,
                elsewhere=elsewhere,
            )
    except KeyboardInterrupt:
        typer.echo(f"Stopped; finished shards are in {out}, and the same command goes on.", err=True)
        raise typer.Exit(130) from None
    if not group.is_first:
        return
    typer.echo(f"{index.samples} samples in {len(index.shards)} shards in {out}, {len(index.skipped)} skipped")
    _show(index.skipped, out)
    if index.left_out:
        typer.echo(f"{len(index.left_out)} files or rows are left out")
        _show(index.left_out, out)
    if index.bare:
        some = ", ".join(index.bare[:SHOWN]) + (" ..." if len(index.bare) > SHOWN else "")
        typer.echo(
            f"{len(index.bare)} samples have neither a caption nor a mask, so that grounding cannot be trained on them "
            f"({some}); add STEM.txt or STEM_mask.png and prepare again, unless VAE or vocoder are to be trained."
        )


def _show(lost: tuple[Skipped, ...], out: Path) -> None:
    for each in lost[:SHOWN]:
        typer.echo(f"  {each.id}: {each.why}")
    if len(lost) > SHOWN:
        typer.echo(f"  ... all of them in {out / 'shards.json'}")


@contextmanager
def _bar(total: int) -> Iterator[OnProgress]:
    """Counts and the time left, on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    skips = TextColumn("{task.fields[skipped]} skipped")
    columns = (BarColumn(), MofNCompleteColumn(), skips, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, skipped=0)
        yield lambda done, skipped: bar.update(task, completed=done, skipped=skipped)
