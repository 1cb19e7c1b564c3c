"""What the commands share: errors as one sentence, text from outside made safe to show, a progress bar, an option."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..utils.files import is_full
from ..utils.libraries import LibraryError, library_error
from ..utils.messages import printable

if TYPE_CHECKING:
    from ..diffusion import OnStep


JsonOption = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]


def command_group(text: str) -> typer.Typer:
    """Commands that belong together; alone, their name shows the help with `text` at its top."""
    return typer.Typer(help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


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
    # Pillow's word on images that `images.opening` refuses in a sentence of its own.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads our output has enough, as `| head` has; click ends quietly
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError, RuntimeError) as error:
        said = _sentence(error)
        if not said:
            raise
        if as_json:
            show_json({"error": said})
        say(f"{program}: {said}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if not as_json:
            raise
        show_json({"error": "stopped"})
        raise typer.Exit(130) from None


def _sentence(error: Exception) -> str:
    """What to say of an error; nothing for one that only a programmer can mend."""
    said = str(error) or type(error).__name__
    if isinstance(error, (MemoryError, RuntimeError)):  # torch's errors of memory are RuntimeErrors
        full = isinstance(error, MemoryError) or "out of memory" in said or "not enough memory" in said
        return f"There is not enough memory for this ({said.splitlines()[0][:200]}); ask for less." if full else ""
    if is_full(error) and "disk is full" not in said:
        return f"The disk is full ({said}); make room, and run it again."
    if isinstance(error, ImportError) and not isinstance(error, LibraryError):
        return str(library_error(error.name or "A library", error))
    if isinstance(error, OSError) and error.filename and error.strerror:  # the operating system's own words
        return f"{error.filename} cannot be used ({error.strerror}); check the path."
    return said


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
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    task = bar.add_task(printable(label), total=None)

    def on_step(step: int, steps: int) -> None:
        if not bar.live.is_started:  # what fails before has nothing to show
            bar.start()
        bar.update(task, completed=step, total=steps)

    try:
        yield on_step
    finally:
        if bar.live.is_started:
            bar.stop()
