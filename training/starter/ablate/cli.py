"""`python -m training evaluate ablate`: the paper's ablations, from a terminal."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sounding.cli.terminal import plain_errors

if TYPE_CHECKING:
    from .run import Ablations

log = logging.getLogger("training")


def ablate(
    data: Annotated[Path, typer.Option(help="Made by `python -m training starter stamps`.")] = Path("data/stamps"),
    judge: Annotated[
        Path | None, typer.Option(help="Of `python -m training starter evaluate judge`; without it one is trained.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all that is made, and the report.")] = Path("runs/ablate"),
    recipes: Annotated[
        Path | None,
        typer.Option(help="Folder with plan.yaml and the recipes; else training/recipes/ablations/starter."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of plan.yaml, such as scenes=5000.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of every training but the common start; else as the recipes say.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many; else as plan.yaml says.")] = None,
    matching: Annotated[
        Path | None,
        typer.Option(help="A trained matching network, for the rows of its thresholds; left out without it."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Make only this row, by its cell's name; several may be given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be made, and the time that it would take.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what is measured, and make nothing.")
    ] = False,
) -> None:
    """Train the paper's variants from a common start, and measure them, beside the paper's figures.

    A run that was stopped is continued. Three seeds take an hour on one core.
    """
    with plain_errors("training"):
        from ...recipe import read_recipe
        from .rows import chosen_rows
        from .run import FOLDER, Ablations
        from .settings import AblationSettings

        folder = recipes or FOLDER
        changes = [*(overrides or []), *([f"seeds={list(range(1, seeds + 1))}"] if seeds else [])]
        settings = read_recipe(folder / "plan.yaml", AblationSettings, changes)
        run = Ablations(data, judge, out, settings, chosen_rows(only), folder, steps, matching)
        run.check()
        if dry_run:
            from .estimate import measure_speed
            from .work import describe

            typer.echo(describe(run.work(), measure_speed(run)))
            return
        try:
            if not report_only:
                _make(run)
        except KeyboardInterrupt:
            typer.echo("Stopped; the same command goes on.", err=True)
            raise typer.Exit(130) from None
        typer.echo(_write(run))


def _make(run: Ablations) -> None:
    """Make all that is missing, say how far it is, and keep the report up to date."""
    began, total = time.monotonic(), len(run.work())
    for made in run.run():
        done = sum(work.done for work in run.work())
        minutes = (time.monotonic() - began) / 60
        log.info("%d of %d: %s is there, after %.0f min", done, total, made, minutes)
        if made.kind == "sounds":
            _write(run)


def _write(run: Ablations) -> str:
    """Write report.json, ablations.md and ablations.html, of all rows; the Markdown page."""
    from sounding.utils.files import write_atomic

    from .report import build_report, markdown, web_page
    from .rows import build_rows

    report: dict[str, Any] = build_report(build_rows(), run.results(), run.reference_figures, run.described, run.failed)
    write_atomic(run.out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomic(run.out / "ablations.md", markdown(report).encode())
    write_atomic(run.out / "ablations.html", web_page(report).encode())
    return markdown(report)
