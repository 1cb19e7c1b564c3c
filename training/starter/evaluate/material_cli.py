"""Commands that write what sounds are measured with, from the judge to what *Retrieve & Separate* needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors

from .options import DataOption, JudgeOption, ModelOption, check_out


def judge(
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    out: Annotated[Path, typer.Option(help="A .safetensors file.")] = Path("judge.safetensors"),
) -> None:
    """Write the classifier that judges sounds, for `python -m training evaluate folders --model FILE`."""
    with plain_errors("training"):
        from ...data.object_set import ObjectSet
        from ...evaluate.models.classifier import write_classifier
        from .judge import open_judge

        check_out(out)
        objects = ObjectSet(data)
        write_classifier(out, open_judge(objects, folder).classifier, [kind.name for kind, _ in objects.visible])
        typer.echo(out)


def items(
    out: Annotated[Path, typer.Option(help="New folder for images, masks, recordings and labels.")],
    data: DataOption = Path("data/stamps"),
    stream: Annotated[
        int | None,
        typer.Option(
            min=0, help="Random stream of the scenes; without it the one of development, 20261128 is that of tests."
        ),
    ] = None,
    per_object: Annotated[int, typer.Option(min=0, max=100, help="Scenes in which each object is selected.")] = 1,
    pairs: Annotated[int, typer.Option(min=0, max=100_000, help="Scenes of two objects.")] = 80,
    backgrounds: Annotated[int, typer.Option(min=0, max=100_000, help="Scenes with the background selected.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of each recording.")] = 2.56,
) -> None:
    """Write scenes with a selected object and its recording each, to measure any system on."""
    with plain_errors("training"):
        from .items import ItemsSettings, write_items
        from .sounds import HELD_OUT

        check_out(out)
        chosen = HELD_OUT if stream is None else stream
        typer.echo(write_items(data, out, ItemsSettings(chosen, per_object, pairs, backgrounds, seconds)))


def avc(
    model: ModelOption = "starter",
    data: DataOption = Path("data/stamps"),
    folder: JudgeOption = Path("runs/evaluate"),
    judge: Annotated[Path | None, typer.Option(help="A file of `judge`; without it the judge of --folder.")] = None,
    out: Annotated[Path, typer.Option(help="A .safetensors file.")] = Path("avc.safetensors"),
) -> None:
    """Write a stand-in for AVC's encoders, for `python -m training evaluate folders --model FILE`."""
    with plain_errors("training"):
        from sounding.model import load

        from ...data.object_set import ObjectSet
        from .audiovisual import write_stand_in

        check_out(out)
        typer.echo(write_stand_in(load(model, device="cpu"), model, ObjectSet(data), folder, judge, out))


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
