"""`python -m training evaluate ...`: what the paper measures, from a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors, progress

from .study.cli import app as study_app
from .theory.cli import theory

app = command_group("Measure what the paper measures.")
app.add_typer(study_app, name="study")
app.command()(theory)


@app.command()
def folders(
    generated: Annotated[list[Path], typer.Option(help="Folder of generated sounds; several may be given.")],
    reference: Annotated[Path, typer.Option(help="Folder of real sounds with the same names.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, table.md and features.npz.")],
    labels: Annotated[Path | None, typer.Option(help="CSV: name,labels (separated by a semicolon), for ACC.")] = None,
    model: Annotated[
        Path, typer.Option(help="A classifier's file, a checkpoint with a CLAP audio tower, or PANNs' Cnn14.")
    ] = Path("judge.safetensors"),
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=60, help="Length that all are cut or padded to; else the model's.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, max=10_000, help="For the 95 % intervals.")] = 200,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """FAD, KAD, KL, IS and ACC of folders of sounds, with intervals; a run that was stopped is continued."""
    with plain_errors("training"):
        from sounding.utils.files import write_atomic

        from .features import open_features
        from .folders import find_sounds, hear
        from .report import measure, read_labels, table
        from .store import write_npz

        called = [folder.resolve().name for folder in generated]
        if len({"reference", *(name.casefold() for name in called)}) <= len(called):
            raise ValueError(f"The generated folders are called {', '.join(called)}, but different names are expected.")
        for folder in (*generated, reference):
            find_sounds(folder)
        opened = open_features(model)
        known, unknown = read_labels(labels, opened.classes) if labels else (None, [])
        sides = []
        for name, folder in zip(["reference", *called], [reference, *generated], strict=True):
            with progress(name, quiet) as on_step:
                length = seconds or opened.seconds
                sides.append(hear(name, folder, opened, length, out / "features" / name, on_step))
        settings = {"model": opened.name, "seconds": length, "resamples": resamples, "unknown_labels": unknown}
        report = settings | measure(sides[1:], sides[0], opened.classes, known, resamples=resamples)
        write_npz(out / "features.npz", {side.name: side.store for side in sides})
        write_atomic(out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
        write_atomic(out / "table.md", table(report).encode())
        typer.echo(table(report))
