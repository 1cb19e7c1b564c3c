"""`python -m training starter ...`: make the data of the model in the box, train it, measure it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sounding.cli.terminal import plain_errors

app = typer.Typer(help="Train the model in the box; its data and its evaluation are commands of their own.")
evaluate_app = typer.Typer(help="Measure what a checkpoint can do.", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate")

Model = Annotated[str, typer.Option(help="'starter' or a checkpoint.")]
Stamps = Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")]
JudgeFolder = Annotated[Path, typer.Option(help="Where the judge is kept.")]
Seconds = Annotated[float, typer.Option(help="Length of the sounds.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps; without it, the checkpoint's.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance; without it, the checkpoint's.")]
Sampler = Annotated[str | None, typer.Option("--sampler", "--scheduler", help="Without it, the checkpoint's.")]
Batch = Annotated[int, typer.Option(min=1, help="Sounds at once.")]
PerObject = Annotated[int, typer.Option(min=1, help="Sounds per object.")]
Clamp = Annotated[Literal["default", "on", "off"], typer.Option(help="Negative attention weights become 0.")]
Out = Annotated[Path | None, typer.Option(help="Write the figures there as JSON.")]
CLAMP = {"default": None, "on": True, "off": False}


@app.callback(invoke_without_command=True)
def starter(
    context: typer.Context,
    data: Stamps = Path("data/stamps"),
    cutouts: Annotated[Path, typer.Option(help="Made by `python -m training starter cutouts`.")] = Path("data/cutouts"),
    out: Annotated[Path, typer.Option(help="Folder of the stages.")] = Path("runs/starter"),
) -> None:
    """Train the model in the box, all stages in order; what is done is not done again."""
    if context.invoked_subcommand is not None:
        return
    from .run import train_starter

    with plain_errors("training"):
        typer.echo(train_starter(data, out, cutouts=cutouts))


@app.command()
def stamps(
    source: Annotated[Path, typer.Option(help="Where the package is installed or unpacked.")] = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("data/stamps"),
) -> None:
    """Collect photographic cut-outs with recordings from Debian's tuxpaint-stamps-default."""
    from .stamps import build

    with plain_errors("training"):
        found = build(source, out)
        typer.echo(f"{len(found)} objects, {sum(one.seconds for one in found):.0f} s of recordings, in {out}")


@app.command()
def cutouts(
    source: Annotated[Path, typer.Option(help="Where the packages are installed or unpacked.")] = Path("/"),
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("data/cutouts"),
) -> None:
    """Collect further cut-outs and backgrounds for the segmenter from Debian packages."""
    from .cutouts import collect

    with plain_errors("training"):
        rows = collect(source, out)
        for kind in ("object", "background"):
            held_out = [row.held_out for row in rows if row.kind == kind]
            typer.echo(f"{len(held_out)} {kind}s, {sum(held_out)} of them held out")


@app.command()
def objects(
    data: Stamps = Path("data/stamps"),
    out: Annotated[Path, typer.Option(help="A .zip file.")] = Path("models/starter-objects.zip"),
) -> None:
    """Pack the stamps small enough to lie beside the starter, as rehearsal objects of fine-tuning."""
    from ..finetune.rehearsal import pack

    with plain_errors("training"):
        typer.echo(f"{out}: {pack(data, out) / 1e6:.2f} MB")


@evaluate_app.command()
def recognise(
    model: Model = "starter",
    data: Stamps = Path("data/stamps"),
    folder: JudgeFolder = Path("runs/evaluate"),
    per_object: PerObject = 3,
    seconds: Seconds = 2.56,
    steps: Steps = None,
    cfg: Guidance = None,
    sampler: Sampler = None,
    clamp: Clamp = "default",
    batch: Batch = 16,
    pairs: Annotated[int, typer.Option(help="Scenes of two objects.")] = 150,
    lengths: Annotated[list[float] | None, typer.Option(help="Seconds, for the part lengths; repeatable.")] = None,
    window: Annotated[float | None, typer.Option(help="Seconds, see SoundingModel.sample.")] = None,
    parts: Annotated[list[str] | None, typer.Option(help="Measure this part only; repeatable.")] = None,
    out: Out = None,
) -> None:
    """Is the right sound made for the right object? A classifier of real recordings answers."""
    from sounding.cost import WINDOW_SECONDS
    from sounding.model import load

    from ..data.object_set import ObjectSet
    from .evaluate.judge import open_judge
    from .evaluate.recognise import PARTS, evaluate
    from .evaluate.sounds import Settings

    with plain_errors("training"):
        unknown = set(parts or ()) - set(PARTS)
        if unknown:
            raise ValueError(f"--parts is {sorted(unknown)[0]!r}, but one of {', '.join(PARTS)} is expected.")
        how = Settings(
            seconds,
            steps,
            cfg,
            sampler,
            CLAMP[clamp],
            window or WINDOW_SECONDS,
            batch,
            per_object,
            pairs,
            tuple(lengths or ()),
        )
        objects = ObjectSet(data)
        judge = open_judge(objects, folder)
        _report(evaluate(load(model), objects, judge, how, tuple(parts or PARTS)), out)


@evaluate_app.command()
def photographs(
    model: Model = "starter",
    data: Stamps = Path("data/stamps"),
    folder: JudgeFolder = Path("runs/evaluate"),
    photographs: Annotated[Path | None, typer.Option(help="Folder with an index.json; tests/photographs.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Mask, text or whole; repeatable. Default: mask, text.")] = None,
    encoders_only: Annotated[bool, typer.Option("--encoders-only", help="Make no sounds.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Sounds per photograph.")] = 3,
    seconds: Seconds = 2.56,
    steps: Steps = None,
    cfg: Guidance = None,
    sampler: Sampler = None,
    batch: Batch = 16,
    out: Out = None,
    sheet: Annotated[Path | None, typer.Option(help="Write photographs, masks and guesses there as an image.")] = None,
) -> None:
    """Photographs from elsewhere: does the right object sound, and if not, which part fails?"""
    from sounding.model import load
    from sounding.utils.files import replacing, write_atomic

    from ..data.object_set import ObjectSet
    from .evaluate import photographs as module
    from .evaluate.judge import open_judge

    with plain_errors("training"):
        unknown = set(by or ()) - set(module.WAYS)
        if unknown:
            raise ValueError(f"--by is {sorted(unknown)[0]!r}, but one of {', '.join(module.WAYS)} is expected.")
        asked = by or ("mask", "text")
        ways = () if encoders_only else tuple(way for way in module.WAYS if way in asked)
        how = module.PhotographSettings(ways, seeds, seconds, steps, cfg, sampler, batch)
        objects = ObjectSet(data)
        judge = open_judge(objects, folder) if ways else None
        found = module.read_photographs(photographs or module.PHOTOGRAPHS, [entry.name for entry in objects.entries])
        figures = module.evaluate(load(model), objects, found, judge, how)
        if out:
            write_atomic(out, json.dumps(figures, indent=1).encode())
        if sheet:
            with replacing(sheet) as path:
                module.draw_sheet(found, figures).save(path, "PNG")
        typer.echo(module.table(figures))


@evaluate_app.command()
def segment(
    segmenter: Annotated[str, typer.Option(help="'starter', a checkpoint, or a SAM file or folder.")] = "starter",
    data: Stamps = Path("data/stamps"),
    cutouts: Annotated[Path | None, typer.Option(help="Also measure on the held-out ones of these.")] = None,
    photographs: Annotated[Path | None, typer.Option(help="Folder with an index.json.")] = None,
    objects: Annotated[int, typer.Option(min=1, help="Objects of scenes.")] = 200,
    clicks: Annotated[Literal["deepest", "random"], typer.Option(help="Where clicks are.")] = "deepest",
    grabcut: Annotated[bool, typer.Option("--grabcut", help="Also GrabCut, alone and after the segmenter.")] = False,
    out: Out = None,
) -> None:
    """How well do clicks find objects? Overlap with the true mask after one and after two clicks."""
    from .evaluate.segment import evaluate

    with plain_errors("training"):
        random = clicks == "random"
        sets: dict[str, Any] = {"cutouts": cutouts, "photographs": photographs, "objects": objects}
        _report(evaluate(segmenter, data, **sets, random=random, grabcut=grabcut), out)


@evaluate_app.command()
def finetuned(
    models: Annotated[list[str], typer.Argument(help="Checkpoints, or 'starter'.")],
    data: Annotated[Path, typer.Option(help="The folder that was learnt.")],
    test: Annotated[Path | None, typer.Option(help="Images of those objects that were not in it.")] = None,
    stamps: Stamps = Path("data/stamps"),
    folder: JudgeFolder = Path("runs/evaluate-own"),
    per_new: Annotated[int, typer.Option(min=1, help="Sounds per new object.")] = 5,
    per_old: Annotated[int, typer.Option(min=1, help="Sounds per known object.")] = 2,
    pairs: Annotated[int, typer.Option(help="Scenes of a new and a known object.")] = 48,
    seconds: Seconds = 2.56,
    steps: Steps = 15,
    cfg: Guidance = None,
    sampler: Sampler = None,
    batch: Batch = 16,
    out: Out = None,
) -> None:
    """Did models learn a user's own objects, and do they still know the others?"""
    from .evaluate.finetuned import FinetunedSettings, compare

    with plain_errors("training"):
        how = FinetunedSettings(per_new, per_old, pairs, seconds, steps, cfg, sampler, batch)
        typer.echo(json.dumps(compare(models, data, stamps, folder, how, test=test, out=out), indent=1))


@evaluate_app.command()
def sheet(
    model: Model = "starter",
    data: Stamps = Path("data/stamps"),
    folder: JudgeFolder = Path("runs/evaluate"),
    per_object: PerObject = 3,
    seconds: Seconds = 2.56,
    steps: Steps = None,
    cfg: Guidance = None,
    sampler: Sampler = None,
    clamp: Clamp = "default",
    batch: Batch = 16,
    out: Annotated[Path, typer.Option(help="The page; its images are written beside it.")] = Path("docs/starter.md"),
) -> None:
    """Write a contact sheet of everything a model knows."""
    from sounding.model import load

    from ..data.object_set import ObjectSet
    from .evaluate.judge import open_judge
    from .evaluate.sheet import write_sheet
    from .evaluate.sounds import Settings

    with plain_errors("training"):
        objects = ObjectSet(data)
        how = Settings(seconds, steps, cfg, sampler, CLAMP[clamp], batch=batch, per_object=per_object)
        command = f"python -m training starter evaluate sheet --model {model} --per-object {per_object}"
        given = {"--steps": steps, "--cfg": cfg, "--out": out.name}
        command += "".join(f" {option} {value}" for option, value in given.items() if value is not None)
        for path in write_sheet(load(model), objects, open_judge(objects, folder), how, out, command=command):
            typer.echo(f"{path}, {path.stat().st_size} bytes")


def _report(figures: dict[str, Any], out: Path | None) -> None:
    """Print figures as JSON, and write them where asked."""
    from sounding.utils.files import write_atomic

    text = json.dumps(figures, indent=1)
    if out:
        write_atomic(out, text.encode())
    typer.echo(text)
