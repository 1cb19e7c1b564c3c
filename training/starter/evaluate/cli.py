"""`python -m training starter evaluate ...`: measurements of a model, from a terminal.

Models are judged by a classifier of real recordings, which is trained into `--folder` the first time.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from sounding.cli.terminal import command_group, plain_errors

from .honest_cli import honest
from .material_cli import avc, items, judge, library, separator
from .options import (
    BatchOption,
    CfgOption,
    ClampOption,
    ClickOrder,
    DataOption,
    JsonOption,
    JudgeOption,
    ModelOption,
    Part,
    PerObjectOption,
    SamplerOption,
    SecondsOption,
    Selection,
    StepsOption,
    Way,
    YamnetOption,
    check_out,
    check_sampler,
    report,
    write_figures,
)

log = logging.getLogger("training")
app = command_group("Measure the model in the box, or a model that was taught more objects.")
for command in (judge, items, avc, separator, library, honest):
    app.command()(command)


@app.command()
def recognise(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    yamnet: YamnetOption = None,
    parts: Annotated[list[Part] | None, typer.Option(help="Measure this part alone; several may be given.")] = None,
    per_object: PerObjectOption = 3,
    pairs: Annotated[int, typer.Option(min=0, help="Scenes of two objects.")] = 150,
    lengths: Annotated[
        list[float] | None, typer.Option(help="Seconds, for part lengths; several may be given.")
    ] = None,
    window: Annotated[float | None, typer.Option(help="Seconds per window of longer sounds.")] = None,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    sampler: SamplerOption = None,
    clamp: ClampOption = None,
    batch: BatchOption = 16,
    out: JsonOption = None,
) -> None:
    """Is the right sound made for the right object of held-out scenes? Figures by part, beside chance.

    The same checkpoint and settings give the same figures.
    """
    with plain_errors("training"):
        from sounding.cost import WINDOW_SECONDS
        from sounding.model import load

        from ...data.object_set import ObjectSet
        from .recognise import PARTS, evaluate
        from .retrieval import open_ear
        from .sounds import Settings

        check_sampler(sampler)
        settings = Settings(
            seconds=seconds,
            steps=steps,
            cfg=cfg,
            sampler=sampler,
            clamp=clamp,
            batch=batch,
            per_object=per_object,
            pairs=pairs,
            lengths=tuple(lengths or ()),
            window=WINDOW_SECONDS if window is None else window,
        )
        check_out(out)
        objects = ObjectSet(data)
        judge = open_ear(objects, folder, seconds, yamnet)
        measured = tuple(part.value for part in parts) if parts else PARTS
        report(evaluate(load(model), objects, judge, settings, measured), out)


@app.command()
def photographs(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    yamnet: YamnetOption = None,
    photographs: Annotated[
        Path | None, typer.Option(help="Folder with an index.json; without it tests/photographs.")
    ] = None,
    by: Annotated[
        list[Way] | None, typer.Option(help="What selects the object; without it by mask and by text.")
    ] = None,
    encoders_only: Annotated[
        bool, typer.Option("--encoders-only", help="Measure the encoders, which takes seconds; no sound is made.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Sounds per photograph.")] = 3,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    sampler: SamplerOption = None,
    batch: BatchOption = 16,
    out: JsonOption = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG file of photographs, masks and guesses.")] = None,
) -> None:
    """Does the right object of photographs from elsewhere sound, and if not, which part fails?"""
    with plain_errors("training"):
        from sounding.model import load
        from sounding.utils.files import replacing

        from ...data.object_set import ObjectSet
        from .photographs import PHOTOGRAPHS, WAYS, PhotographSettings, draw_sheet, evaluate, read_photographs, table
        from .retrieval import open_ear

        if encoders_only and by:
            raise ValueError(f"--encoders-only makes no sound, but --by {by[0].value} asks for one; give one of them.")
        asked = () if encoders_only else tuple(way.value for way in by or (Way.mask, Way.text))
        ways = tuple(way for way in WAYS if way in asked)
        check_sampler(sampler)
        settings = PhotographSettings(ways, seeds, seconds, steps, cfg, sampler, batch)
        check_out(out, sheet)
        objects = ObjectSet(data)
        shown = read_photographs(photographs or PHOTOGRAPHS, [kind.name for kind, _ in objects.visible])
        judge = open_ear(objects, folder, seconds, yamnet) if ways else None
        figures = evaluate(load(model), objects, shown, judge, settings)
        write_figures(figures, out)
        if sheet:
            with replacing(sheet) as path:
                draw_sheet(shown, figures).save(path, "PNG")
        typer.echo(table(figures))


@app.command()
def segment(
    segmenter: Annotated[str, typer.Option(help="'starter', a checkpoint, or a SAM file or folder.")] = "starter",
    data: DataOption = Path("data/stamps"),
    cutouts: Annotated[
        Path | None, typer.Option(help="Of `python -m training starter cutouts`: measure on unseen objects, too.")
    ] = None,
    photographs: Annotated[
        Path | None, typer.Option(help="Folder with an index.json: measure on its photographs, too.")
    ] = None,
    objects: Annotated[int, typer.Option(min=1, help="Objects of drawn scenes, one per scene.")] = 200,
    clicks: Annotated[ClickOrder, typer.Option(help="Where clicks lie inside the object.")] = ClickOrder.deepest,
    grabcut: Annotated[
        bool, typer.Option("--grabcut", help="Measure GrabCut, too, alone and after the segmenter.")
    ] = False,
    out: JsonOption = None,
) -> None:
    """How well do one and two clicks find objects? Overlap (IoU) with the true masks."""
    with plain_errors("training"):
        from .segment import evaluate

        check_out(out)
        random = clicks is ClickOrder.random
        sets: dict[str, Any] = {"cutouts": cutouts, "photographs": photographs, "objects": objects}
        report(evaluate(segmenter, data, **sets, random=random, grabcut=grabcut), out)


@app.command()
def naming(
    model: Annotated[
        str, typer.Option(help="'starter-names' or a checkpoint that names what masks show.")
    ] = "starter-names",
    data: DataOption = Path("data/stamps"),
    cutouts: Annotated[Path, typer.Option(help="Made by `python -m training starter cutouts`.")] = Path("data/cutouts"),
    photographs: Annotated[
        Path | None, typer.Option(help="Folder with an index.json: name its photographs, too.")
    ] = None,
    cases: Annotated[int, typer.Option(min=8, help="Selections; a fifth are backgrounds.")] = 500,
    plot: Annotated[Path | None, typer.Option(help="Calibration plot to write (.png).")] = None,
    out: JsonOption = None,
) -> None:
    """Are objects called what they are, and mere backgrounds "unknown"? By mask and by the whole image."""
    with plain_errors("training"):
        from sounding.naming.load import load_namer

        from ...data.object_set import ObjectSet
        from .naming import draw_reliability, evaluate

        check_out(out, plot)
        figures = evaluate(load_namer(model), ObjectSet(data), cutouts, photographs=photographs, cases=cases)
        if plot is not None:
            draw_reliability(figures["reliability"], plot)
        report(figures, out)


@app.command()
def selections(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    parts: Annotated[
        list[Selection] | None, typer.Option(help="Measure this part alone; several may be given.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of two or three objects.")] = 24,
    scales: Annotated[
        list[float] | None, typer.Option("--cfg", help="Guidance scale, for part negative; several may be given.")
    ] = None,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = None,
    out: JsonOption = None,
) -> None:
    """Does text choose within a mask, does a name stand for its object, does a negative selection keep a thing out?"""
    with plain_errors("training"):
        from sounding.model import load

        from ...data.object_set import ObjectSet
        from .selections import PARTS, evaluate
        from .sounds import Settings

        check_out(out)
        loaded = load(model)
        settings = Settings(seconds=seconds, steps=steps, pairs=scenes)
        measured = tuple(part.value for part in parts) if parts else PARTS
        report(evaluate(loaded, ObjectSet(data), settings, measured, scales or (loaded.config.generation.cfg,)), out)


@app.command()
def finetuned(
    models: Annotated[list[str], typer.Argument(help="Checkpoints, or 'starter'.")],
    data: Annotated[Path, typer.Option(help="Folder of images and sounds that was learned.")],
    test: Annotated[Path | None, typer.Option(help="Images of the same objects that are not in it.")] = None,
    stamps: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate-own"),
    per_new: Annotated[int, typer.Option(min=1, help="Sounds per new object.")] = 5,
    per_old: Annotated[int, typer.Option(min=1, help="Sounds per known object.")] = 2,
    pairs: Annotated[int, typer.Option(min=1, help="Scenes of a new and a known object.")] = 48,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = 15,
    cfg: CfgOption = None,
    sampler: SamplerOption = None,
    batch: BatchOption = 16,
    out: JsonOption = None,
) -> None:
    """Did models learn a user's own objects, and do they still know the others?"""
    with plain_errors("training"):
        from .finetuned import FinetunedSettings, compare

        check_sampler(sampler)
        check_out(out)
        settings = FinetunedSettings(per_new, per_old, pairs, seconds, steps, cfg, sampler, batch)
        typer.echo(json.dumps(compare(models, data, stamps, folder, settings, test=test, out=out), indent=1))


@app.command()
def sheet(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    yamnet: YamnetOption = None,
    per_object: PerObjectOption = 3,
    seconds: SecondsOption = 2.56,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    sampler: SamplerOption = None,
    clamp: ClampOption = None,
    batch: BatchOption = 16,
    out: Annotated[Path, typer.Option(help="The page; its images lie beside it.")] = Path("docs/starter.md"),
) -> None:
    """A page with every object that a model knows: image, real and generated sound, and the judge's answer."""
    with plain_errors("training"):
        from sounding.model import load

        from ...data.object_set import ObjectSet
        from .retrieval import open_ear
        from .sheet import write_sheet
        from .sounds import Settings

        check_sampler(sampler)
        settings = Settings(
            seconds=seconds, steps=steps, cfg=cfg, sampler=sampler, clamp=clamp, batch=batch, per_object=per_object
        )
        check_out(out)
        command = f"python -m training starter evaluate sheet --model {model} --per-object {per_object}"
        given = {"--yamnet": yamnet and "YAMNET", "--steps": steps}
        given |= {"--cfg": None if cfg is None else f"{cfg:g}", "--out": out.name}
        command += "".join(f" {option} {value}" for option, value in given.items() if value is not None)
        objects = ObjectSet(data)
        judge = open_ear(objects, folder, seconds, yamnet)
        for path in write_sheet(load(model), objects, judge, settings, out, command=command):
            log.info("%s, %d bytes", path, path.stat().st_size)
