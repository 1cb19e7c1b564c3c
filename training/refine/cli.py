"""`python -m training refine SETTINGS.yaml`: videos into shards of clips whose objects are seen and heard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import plain_errors, progress


def refine(
    settings: Annotated[Path, typer.Argument(help="YAML file; see training/recipes/refine.yaml and docs/refine.md.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as matching.threshold=0.7.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps, their models and resources, and what is left to do.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Refine videos as in appendix B of the paper; a run that was stopped is continued."""
    with plain_errors("training"):
        from .settings import read_settings

        chosen = read_settings(settings, overrides)
        if dry_run:
            from .plan import dry_run as describe

            typer.echo(describe(chosen))
            return
        from .funnel import as_text
        from .pipeline import refine as run

        try:
            with progress("clips", quiet) as on_step:
                made = run(chosen, on_step, lambda text: typer.echo(text, err=True))
        except KeyboardInterrupt:
            typer.echo(f"Stopped; what was measured is in {chosen.out}, and the same command goes on.", err=True)
            raise typer.Exit(130) from None
        typer.echo(as_text(made.stages, *shutil.get_terminal_size((100, 30))))
        typer.echo(f"{made.kept} of {made.listed} clips ({made.hours:.2f} h) are kept: {made.report}")
