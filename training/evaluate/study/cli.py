"""`python -m training evaluate study ...`: listening tests and the interaction study, from a terminal."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sounding.cli.terminal import command_group, plain_errors

app = command_group("Listening tests by a web page for raters, and how people work with the click node (table 2).")


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


@app.command()
def tasks(
    tasks: Annotated[Path, typer.Option(help="CSV file: task,image,sentence.")],
    images: Annotated[Path, typer.Option(help="ComfyUI's input folder, in which the images are.")],
    condition: Annotated[
        list[str], typer.Option(help="A method, as name or name=what participants are told; several may be given.")
    ],
    participants: Annotated[int, typer.Option(min=1, help="How many; they are called P01, P02 and so on.")],
    study: Annotated[str, typer.Option(help="The study's name, which the log keeps.")] = "study",
    seed: Annotated[int, typer.Option(min=0, help="Of the orders.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write; goes into ComfyUI's user/default/sounding_study.")] = Path(
        "tasks.json"
    ),
) -> None:
    """Plan an interaction study (table 2): each participant's tasks, in an order of their own."""
    with plain_errors("training"):
        import json

        from sounding.utils.files import write_atomic

        from .interaction.tasks import make_plan, read_conditions, read_tasks

        plan = make_plan(study, read_tasks(tasks, images), read_conditions(condition), participants, seed)
        write_atomic(out, json.dumps(plan, indent=1).encode())
        each = next(iter(plan["participants"].values()))
        typer.echo(f"{out}: {participants} participants, {len(each)} tasks each")


@app.command()
def interaction(
    log: Annotated[list[Path], typer.Option(help="The click node's log; several may be given.")],
    study: Annotated[str, typer.Option(help="Take only trials of this study.")] = "",
    ours: Annotated[str, typer.Option(help="Test this condition against each other one; without it, all pairs.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for interaction.json and interaction.md.")] = None,
) -> None:
    """Time, attempts and satisfaction of people who work in the click node, in the shape of table 2."""
    with plain_errors("training"):
        import json

        from sounding.utils.files import write_atomic

        from .interaction.figures import figures_of
        from .interaction.log import read_trials
        from .interaction.markdown import as_markdown

        trials, left_out = read_trials(log)
        figures = figures_of([each for each in trials if study in ("", each.study)], left_out, ours)
        text = as_markdown(figures)
        if out:
            write_atomic(out / "interaction.json", json.dumps(figures, indent=1, allow_nan=False).encode())
            write_atomic(out / "interaction.md", text.encode())
        typer.echo(text)
