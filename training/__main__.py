"""`python -m training refine | prepare | run | finetune | evaluate | jobs | starter`: training from a terminal.

Several processes or machines: `accelerate launch -m training run RECIPE`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors

from .data.prepare import app as prepare_app
from .evaluate.cli import app as evaluate_app
from .jobs import jobs
from .matching.cli import matching
from .refine.cli import refine
from .starter import cli as starter
from .starter.ablate.cli import ablate

app = command_group("Train and prepare data for Sounding Objects.")
app.add_typer(prepare_app, name="prepare")
prepare_app.command("matching")(matching)
evaluate_app.command()(ablate)  # of the starter's room, from which `evaluate` may not import
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(starter.app, name="starter")
app.command()(refine)
app.command()(jobs)
for moved, command in (  # where earlier versions had them
    ("calibrate", starter.calibrate),
    ("put-segmenter", starter.put_segmenter),
    ("take-segmenter", starter.take_segmenter),
):
    app.command(moved, hidden=True)(command)


@app.callback()
def main() -> None:
    """Train models for Sounding Objects, and prepare the data."""
    # Log lines with the time, as long runs want them.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("httpx", "botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.WARNING)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see training/recipes.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as loop.lr=1e-4.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all that a run would; print the settings in use and estimates.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Number that the dry run assumes; without it that of `accelerate launch`.")
    ] = None,
) -> None:
    """Train by RECIPE and write the checkpoint; a run that was stopped is continued."""
    from .recipe import Recipe, read_recipe
    from .recipe_files import read_yaml
    from .recipe_migrations import migrated_finetuning

    with plain_errors("training"):
        if migrated_finetuning(read_yaml(recipe)).keys() >= {"text_encoder", "grounding", "unet"}:
            _describe_finetune(recipe, overrides or [], dry_run)
            return
        resolved: Recipe = read_recipe(recipe, overrides=overrides or [])
        if dry_run:
            from .dry_run import dry_run as describe
            from .dry_run import settings_in_use

            launched = os.environ.get("WORLD_SIZE", "")
            count = processes or (int(launched) if launched.isdecimal() else 1)
            text, problems = describe(resolved, processes=max(1, count))
            if os.environ.get("RANK", "0") == "0":
                typer.echo(settings_in_use(resolved))
                typer.echo(text)
                for problem in problems:
                    typer.echo(f"training: {problem}", err=True)
            raise typer.Exit(1 if problems else 0)
        from .run import run as train

        typer.echo(train(resolved))


def _describe_finetune(recipe: Path, overrides: list[str], dry_run: bool) -> None:
    """Describe a recipe of `finetune`, which is another command's."""
    from .finetune.plan import STARTER, FinetuneRecipe, estimated
    from .recipe import read_recipe

    settings: FinetuneRecipe = read_recipe(recipe, FinetuneRecipe, overrides)
    if not dry_run:
        raise ValueError(
            f"{recipe} has settings of another command; run `python -m training finetune --recipe {recipe} --data "
            "FOLDER --out FILE`."
        )
    typer.echo(settings.to_yaml())
    typer.echo(estimated(STARTER, settings))
    typer.echo("`python -m training finetune ... --dry-run` looks at your own files, too.")


@app.command("begin", hidden=True)  # as earlier versions called it
@app.command()
def initialize(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see training/recipes.")],
    out: Annotated[Path, typer.Option(help="A .safetensors file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for `run`.")] = None,
) -> None:
    """Write the model that a run of RECIPE starts from, to make features with it."""
    from .recipe import Recipe, read_recipe

    with plain_errors("training"):
        resolved: Recipe = read_recipe(recipe, overrides=overrides or [])
        import torch

        from .engine.states import plain_disk_errors
        from .initialization import initialize as start_model

        with plain_disk_errors(out.parent):
            model = start_model(resolved)
            model.save_pretrained(out, dtype=torch.float32, title=resolved.name, licence=resolved.licence)
        typer.echo(out)


@app.command("debug-data")
def debug_data(
    out: Annotated[Path, typer.Option(help="Folder for videos, pairs and a tiny model.")] = Path("data/debug"),
) -> None:
    """Make synthetic data and a tiny model, to try training/recipes/debug.yaml with."""
    with plain_errors("training"):
        from .data.debug import make_debug_data
        from .engine.states import check_writable

        check_writable(out)
        make_debug_data(out)
        typer.echo(f"{out}: base.safetensors, pairs, videos, videos.csv, classes.csv")


@app.command()
def finetune(
    data: Annotated[Path, typer.Option(help="Folder with NAME.jpg and NAME.wav (+ NAME_mask.png, NAME.txt).")],
    out: Annotated[Path, typer.Option(help="The new checkpoint, a .safetensors file.")],
    base: Annotated[str, typer.Option("--from", help="'starter' or a checkpoint.")] = "starter",
    rehearse: Annotated[
        list[str] | None,
        typer.Option(
            help="What it must not forget: starter, a stamps folder, a folder it was taught earlier, or none."
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of your images and recordings; kept in the file.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Settings other than training/recipes/finetune.yaml.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all files, and print what training would take.")
    ] = False,
) -> None:
    """Teach a model the objects of your own images and recordings; a run that was stopped is continued."""
    import sys

    with plain_errors("training"):
        from .finetune.plan import FinetuneRecipe
        from .finetune.plan import dry_run as describe
        from .finetune.run import finetune as teach
        from .recipe import read_recipe

        settings = read_recipe(recipe, FinetuneRecipe) if recipe else None
        if dry_run:
            typer.echo(describe(data, base, out, rehearse=rehearse, licence=licence or "", recipe=settings))
            return
        if licence is None:
            asked = "Licence of your images and recordings, kept in the file (such as CC-BY-4.0, or private)"
            licence = typer.prompt(asked, default="", show_default=False) if sys.stdin.isatty() else ""
        try:
            typer.echo(teach(data, base, out, rehearse=rehearse, licence=licence, recipe=settings))
        except KeyboardInterrupt:
            typer.echo("Stopped; the same command goes on.", err=True)
            raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
