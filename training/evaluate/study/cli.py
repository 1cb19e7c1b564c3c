"""`python -m training evaluate study ...`: listening tests, from a terminal."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors

app = command_group("Listening tests: a web page for raters, and the report of what they said.")


class Protocol(str, Enum):
    """What raters are asked."""

    rate = "rate"
    prefer = "prefer"


@app.command()
def serve(
    samples: Annotated[Path, typer.Option(help="Folder of images with texts, a sub-folder of sounds per system.")],
    database: Annotated[Path, typer.Option(help="SQLite file for the ratings; one that exists is continued.")] = Path(
        "study.db"
    ),
    protocol: Annotated[Protocol, typer.Option(help="Rate each sound on four scales, or prefer one of two.")] = (
        Protocol.rate
    ),
    minimum_seconds: Annotated[float, typer.Option(help="Least time per sample.")] = 90.0,
    controls: Annotated[int, typer.Option(help="Noise-only controls per rater, at most one per image.")] = 5,
    items_per_rater: Annotated[
        int, typer.Option(help="Images per rater, with the sounds of all systems; 0 for all images.")
    ] = 0,
    against: Annotated[str, typer.Option(help="With `prefer`: compare this system with each other one alone.")] = "",
    seed: Annotated[int, typer.Option(help="Of orders and controls.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8477,
) -> None:
    """Serve the page of a listening test until Ctrl-C; the same command continues it."""
    with plain_errors("training"):
        from .plan import Settings
        from .server import serve as run

        settings = Settings(protocol.value, minimum_seconds, controls, items_per_rater, seed, against)
        run(samples, database, settings, host, port, announce=typer.echo)


@app.command()
def report(
    database: Annotated[Path, typer.Option(help="SQLite file that `serve` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder for study.json and study.md.")] = None,
    ours: Annotated[str, typer.Option(help="Test this system against each other one; without it, all pairs.")] = "",
    control_limit: Annotated[
        float, typer.Option(min=1, max=5, help="A rater whose controls have a higher mean than this fails.")
    ] = 2.0,
    leave_out_failed: Annotated[bool, typer.Option("--leave-out-failed", help="Leave out raters who fail.")] = False,
) -> None:
    """Means with intervals, controls, agreement and tests of a listening test, as Markdown (and JSON with --out)."""
    with plain_errors("training"):
        from .report import make_report, write_report

        figures = make_report(database, ours=ours, control_limit=control_limit, leave_out_failed=leave_out_failed)
        typer.echo(write_report(figures, out))
