"""Options of commands whose work engines can do, and the settings that these make."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .settings import EngineSettings, Resources

WORKERS = 64
RayOption = Annotated[bool, typer.Option("--ray", help="Let workers of Ray do it, on this machine or a cluster.")]
AddressOption = Annotated[
    str, typer.Option(help="With --ray: of a running cluster, or auto; without it one is started on this machine.")
]
MostWorkersOption = Annotated[
    int | None, typer.Option("--most-workers", min=1, help=f"With --ray: at most so many, {WORKERS} if not given.")
]
CpusOption = Annotated[
    float | None, typer.Option("--cpus", help="With --ray: per worker, as many as its threads; 1 if not given.")
]
GpusOption = Annotated[
    float | None, typer.Option("--gpus", help="With --ray: per worker, such as 1 or 0.5; without it the CPU is used.")
]


def chosen_engine(
    ray: bool, address: str, workers: int | None, cpus: float | None, gpus: float | None, device: str
) -> tuple[EngineSettings, Resources] | None:
    """Where the work is done, and what a worker takes; None without `ray`: in this process.

    Each row is work for minutes, so that rows are given to workers one by one.

    Raises:
        ValueError: options that do not go together, or numbers out of their range.
    """
    given = {"--address": address or None, "--most-workers": workers, "--cpus": cpus, "--gpus": gpus}
    if not ray:
        alone = [name for name, value in given.items() if value is not None]
        if alone:
            raise ValueError(f"{alone[0]} came without --ray, which it is about; give both or neither.")
        return None
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ValueError(
            "--ray came to several processes of a launcher, but Ray starts its own; leave the launcher out."
        )
    if device.startswith("cuda") and not gpus:
        raise ValueError(f"--device is {device}, but --gpus gives workers none; set it to what one takes, such as 1.")
    resources = Resources(1.0 if cpus is None else cpus, gpus or 0.0, workers or WORKERS, batch=1)
    return EngineSettings(kind="ray", address=address, block=1), resources
