"""Options that several commands of `evaluate` have, their choices, and what all do with results."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Part(str, Enum):
    """What `recognise` measures."""

    real = "real"
    masked = "masked"
    text = "text"
    pairs = "pairs"
    background = "background"
    lengths = "lengths"
    checks = "checks"
    demo = "demo"


class Selection(str, Enum):
    """What `selections` measures."""

    joined = "joined"
    names = "names"
    negative = "negative"


class Way(str, Enum):
    """What selects the object of a photograph."""

    mask = "mask"
    text = "text"
    whole = "whole"


class ClickOrder(str, Enum):
    """Where simulated clicks lie."""

    deepest = "deepest"
    random = "random"


ModelOption = Annotated[str, typer.Option(help="'starter' or a checkpoint.")]
DataOption = Annotated[Path, typer.Option(help="Made by `python -m training starter stamps` or `starter data`.")]
JudgeOption = Annotated[Path, typer.Option(help="Folder that the judge is kept in.")]
YamnetOption = Annotated[
    Path | None,
    typer.Option(help="Instead of that judge: YAMNet's model.onnx, its folder, or another model of sounds."),
]
SecondsOption = Annotated[float, typer.Option(help="Length of each sound.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Sampling steps; without it the checkpoint's own.")]
CfgOption = Annotated[float | None, typer.Option(help="Guidance scale; without it the checkpoint's own.")]
SamplerOption = Annotated[
    str | None, typer.Option("--sampler", "--scheduler", help="Without it the checkpoint's own sampler.")
]
ClampOption = Annotated[
    bool | None, typer.Option("--clamp/--no-clamp", help="Negative weights; without either as the checkpoint says.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Sounds per batch.")]
PerObjectOption = Annotated[int, typer.Option(min=1, help="Sounds per object.")]
JsonOption = Annotated[Path | None, typer.Option("--out", help="JSON file for the figures.")]


def check_sampler(sampler: str | None) -> None:
    """Whether there is such a sampler, which should be known before a judge is trained.

    Raises:
        ValueError: there is none.
    """
    from sounding.config import SAMPLERS

    if sampler is not None and sampler not in SAMPLERS:
        raise ValueError(f"--sampler is {sampler!r}, but one of {', '.join(SAMPLERS)} is expected.")


def check_out(*files: Path | None) -> None:
    """Whether results can be written, which should be known before hours of work."""
    from ...engine.states import check_writable

    for file in files:
        if file is not None:
            check_writable(file.parent)


def write_figures(figures: dict[str, Any], out: Path | None) -> None:
    """Figures as JSON, to a file if one is named."""
    from sounding.utils.files import write_atomic

    if out:
        write_atomic(out, json.dumps(figures, indent=1).encode())


def report(figures: dict[str, Any], out: Path | None) -> None:
    """Figures as JSON, to a file if one is named, and to the screen."""
    write_figures(figures, out)
    typer.echo(json.dumps(figures, indent=1))
