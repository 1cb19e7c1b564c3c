"""`python -m training evaluate theory`: theorem 3.1 measured, from a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors


def theory(
    model: Annotated[str, typer.Option(help="'starter' or a checkpoint.")] = "starter",
    data: Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")] = Path("data/stamps"),
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes whose attention is measured.")] = 120,
    reference: Annotated[int, typer.Option(min=1, help="Scenes that the true values V* are fitted to.")] = 150,
    sounds: Annotated[
        int, typer.Option(min=0, help="Scenes that sounds are made of, for equation 6; 0 leaves it out.")
    ] = 24,
    slopes: Annotated[int, typer.Option(min=1, help="Of these, scenes at which L_f is estimated.")] = 2,
    seconds: Annotated[float, typer.Option(help="Length of each sound.")] = 2.56,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 10,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale; without it the checkpoint's own.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for theory.json, theory.md and theory.png.")] = Path("runs/theory"),
) -> None:
    """Is a mask near the attention that it replaces, and how tight is the paper's bound (theorem 3.1)?"""
    with plain_errors("training"):
        from sounding.model import load
        from sounding.utils.files import replacing, write_atomic

        from ...data.object_set import ObjectSet
        from .measure import Settings, measure
        from .report import attention_sheet, table

        out.mkdir(parents=True, exist_ok=True)
        settings = Settings(scenes, reference, min(sounds, scenes), slopes, seconds, steps, cfg)
        figures, queries = measure(load(model, device="cpu"), ObjectSet(data), settings)
        figures = {"model": model, **figures}
        write_atomic(out / "theory.json", json.dumps(figures, indent=1).encode())
        write_atomic(out / "theory.md", table(figures).encode())
        with replacing(out / "theory.png") as path:
            attention_sheet(queries[:12]).save(path, "PNG")
        typer.echo(table(figures))
