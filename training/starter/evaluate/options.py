"""Options that several commands of `evaluate` have, and their choices."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

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
DataOption = Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")]
JudgeOption = Annotated[Path, typer.Option(help="Folder that the judge is kept in.")]
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
