"""Commands that make what *Retrieve & Separate* needs on the starter's data; imported by `cli.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors

from .options import DataOption, JudgeOption, ModelOption


def separator(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    out: Annotated[Path, typer.Option(help="A .safetensors file.")] = Path("separator.safetensors"),
) -> None:
    """Train the separator of Retrieve & Separate, for `python -m training evaluate baselines --separator FILE`."""
    with plain_errors("training"):
        from sounding.model import load

        from ...data.object_set import ObjectSet
        from ...engine.states import check_writable
        from ...evaluate.baselines.separation import write_separator
        from ...recipe import RECIPES, read_recipe
        from .separator import SeparatorRecipe, train_separator

        check_writable(out.parent)
        check_writable(folder)
        recipe = read_recipe(RECIPES / "starter" / "separator.yaml", SeparatorRecipe)
        write_separator(out, train_separator(recipe, ObjectSet(data), load(model, device="cpu"), folder))
        typer.echo(out)


def library(
    out: Annotated[Path, typer.Option(help="New folder for sounds and captions.csv.")],
    data: DataOption = Path("data/stamps"),
    scenes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Sounds, one per training scene.")] = 500,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of each sound.")] = 2.56,
) -> None:
    """Write sounds of training scenes with captions, for `python -m training evaluate baselines --library FOLDER`."""
    with plain_errors("training"):
        from ...data.object_set import ObjectSet
        from ...engine.states import check_writable
        from .separator import write_library

        check_writable(out.parent)
        typer.echo(write_library(ObjectSet(data), out, scenes, seconds))
