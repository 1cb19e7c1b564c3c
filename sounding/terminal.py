"""What the commands share: errors as one sentence, text from outside made safe to show, a progress bar, an option."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .libraries import LibraryError, library_error
from .plain_text import printable

if TYPE_CHECKING:
    from .diffusion import OnStep

JsonOption = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]


def say(text: object) -> None:
    """Print lines on standard error, made safe to show."""
    typer.echo("\n".join(printable(line) for line in str(text).split("\n")), err=True)


def show(text: object) -> None:
    """Print one line on standard output, made safe to show."""
    typer.echo(printable(text))


def show_json(report: dict[str, Any]) -> None:
    """Print one line for programs; every character beyond ASCII is escaped."""
    typer.echo(json.dumps(report))


@contextmanager
def plain_errors(program: str = "sounding", as_json: bool = False) -> Iterator[None]:
    """Show what a person can mend as one sentence instead of a traceback, with `as_json` as a line for programs too."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal of few characters shows the others as \u2026 and the like
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if isinstance(error, ImportError) and not isinstance(error, LibraryError):
            error = library_error(error.name or "A library", error)
        said = str(error) or type(error).__name__
        if as_json:
            show_json({"error": said})
        say(f"{program}: {said}")
        raise typer.Exit(1) from None


@contextmanager
def progress(label: str, quiet: bool) -> Iterator[OnStep | None]:
    """A bar on standard error, as a callback for `on_step`."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda step, steps: bar.update(task, completed=step, total=steps)
