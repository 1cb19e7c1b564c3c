"""What the commands of this package share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what a person can mend as one sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"training: {error}", err=True)
        raise typer.Exit(1) from None
