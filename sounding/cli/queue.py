"""`sounding queue`: run a graph on a ComfyUI server and bring its sounds home."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.messages import printable
from .terminal import JsonOption, plain_errors, say, show, show_json

if TYPE_CHECKING:
    from ..client.answers import OutputFile
    from ..client.run import OnProgress, Progress


def queue(
    workflow: Annotated[Path, typer.Argument(help="A graph in the API form, such as those in example_workflows/api.")],
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="Image for the LoadImage nodes: FILE, or NODE=FILE to name the node (number or title). Without "
            "NODE one for each, in the graph's order."
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="The same for the LoadImageMask nodes; white selects. A graph without such nodes gets it as the "
            "image's transparency."
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="node.input=value, the node by number, title or class: 7.seed=3"),
    ] = None,
    server: Annotated[str, typer.Option(help="Address of ComfyUI.")] = "http://127.0.0.1:8188",
    out: Annotated[Path, typer.Option(help="Folder for the sounds.")] = Path("sounds"),
    everything: Annotated[bool, typer.Option("--all", help="Bring previews, images and all other files too.")] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds for everything: sending, running, fetching.", min=1.0)
    ] = 600.0,
    max_mb: Annotated[int, typer.Option(help="Megabytes that a file from the server may have.", min=1)] = 512,
    as_json: JsonOption = False,
) -> None:
    """Run a graph on a ComfyUI server; Ctrl-C cancels it there too."""
    with plain_errors(as_json=as_json):
        from ..client.answers import output_files
        from ..client.connection import RemoteError
        from ..client.graph import fill, read_graph, set_input
        from ..client.run import check_timeout, run_graph
        from ..client.server import ComfyServer
        from .options import check_folder

        started = time.monotonic()
        check_timeout(timeout)
        check_folder(out)
        graph = read_graph(workflow)
        host = ComfyServer(server, timeout=timeout, file_bytes=max_mb * 1_000_000)
        host.check()
        for assignment in values or []:
            set_input(graph, assignment, host.inputs_of)
        fill(graph, image or [], mask or [], host.upload)
        try:
            with _shown(quiet=as_json) as on_progress:
                entry = run_graph(host, graph, timeout=timeout, on_progress=on_progress)
        except KeyboardInterrupt:
            stopped = "stopped; the server was told to cancel the prompt."
            if as_json:
                show_json({"error": stopped})
            say(f"sounding: {stopped}")
            raise typer.Exit(130) from None
        files = output_files(entry)
        wanted = files if everything else _sounds(files)
        if not any(file.is_sound for file in wanted):
            raise RemoteError(
                "The graph ran, but saved no sound; add a Save Audio or Preview Audio node, or take its "
                f"{len(files)} other files with --all."
                if files and not everything
                else "The graph ran, but saved no sound; add a Save Audio or Preview Audio node."
            )
        saved, lost = [], []
        for file in wanted:
            try:
                saved.append((file, host.save(file, out)))
            except RemoteError as error:  # the others are worth having
                lost.append(f"{printable(file.filename, 100)}: {error}")
        if as_json and not lost:
            nodes: dict[str, list[str]] = {}
            for file, path in saved:
                nodes.setdefault(file.node, []).append(str(path))
            show_json(
                {
                    "files": [str(path) for file, path in saved if file.is_sound],
                    "nodes": nodes,
                    "prompt_id": entry["prompt_id"],
                    "elapsed": round(time.monotonic() - started, 3),
                }
            )
        elif not as_json:
            for _, path in saved:
                show(path)
        if lost:
            others = f" ({len(saved)} others are in {out})" if saved else ""
            raise RemoteError(f"{len(lost)} of {len(wanted)} files did not come{others}; {lost[0]}")


def _sounds(files: list[OutputFile]) -> list[OutputFile]:
    """The sounds that a graph saved, or, if it saved none, those that it only previewed."""
    sounds = [file for file in files if file.is_sound]
    return [file for file in sounds if file.folder == "output"] or sounds


@contextmanager
def _shown(quiet: bool) -> Iterator[OnProgress | None]:
    """Progress on standard error: a bar on a terminal, otherwise a line for each node."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        last = ""

        def line(progress: Progress) -> None:
            nonlocal last
            if progress.what != last:
                last = progress.what
                say(last)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[step]}"),
    )
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("queued", total=None, step="")

        def bar(progress: Progress) -> None:
            step = f"{progress.step}/{progress.steps}" if progress.steps else ""
            bars.update(
                task,
                description=printable(progress.what),
                completed=progress.step,
                total=progress.steps or None,
                step=step,
            )

        yield bar
