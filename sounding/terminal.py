"""What the commands share: errors as one sentence, a progress bar, an option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .libraries import LibraryError, library_error

if TYPE_CHECKING:
    from .diffusion import OnStep

JsonOption = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]


@contextmanager
def plain_errors(program: str = "sounding") -> Iterator[None]:
    """Show what a person can mend as one sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"{program}: {error}", err=True)
        raise typer.Exit(1) from None
    except ImportError as error:
        said = error if isinstance(error, LibraryError) else library_error(error.name or "A library", error)
        typer.echo(f"{program}: {said}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def progress(label: str, quiet: bool) -> Iterator[OnStep | None]:
    """A bar on standard error, as a callback for `on_step`."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda step, steps: bar.update(task, completed=step, total=steps)
