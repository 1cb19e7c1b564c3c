"""Settings of engines: where stages run, and what their workers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sounding.utils.fields import Checked, Range, Text


@dataclass(frozen=True)
class Resources(Checked):
    """What one worker of a stage takes, and how many there may be.

    Raises:
        ValueError: a number out of its range, or GPUs that are neither a share of one nor whole ones.
    """

    cpus: Annotated[float, Range(0.01, 256)] = 1.0
    gpus: Annotated[float, Range(0, 16)] = 0.0
    workers: Annotated[int, Range(1, 4096)] = 1  # at most; the engine begins with one
    batch: Annotated[int, Range(1, 4096)] = 16  # rows at once: what a model takes together and one part holds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus:g}, but a share of one GPU or a whole number of them is expected.")


@dataclass(frozen=True)
class EngineSettings(Checked):
    """Where stages run.

    Attributes:
        kind: "ray" on one machine or a cluster, "local" in this process alone.
        address: of a running Ray cluster; "" starts one on this machine, for the run.
        cpus: of the cluster that is started; 0 takes all.
        object_store_mb: likewise, for blocks of rows; these are texts and numbers.
        block: rows per block.
        slab: rows per stream. Ray holds all that goes into a stream, so a long list is taken through in several; each
            begins with one worker per stage again.
        restarts: how often a stream begins again with what is left after nodes or workers were lost.
    """

    kind: Literal["ray", "local"] = "ray"
    address: Annotated[str, Text(300)] = ""
    cpus: Annotated[int, Range(0, 1024)] = 0
    object_store_mb: Annotated[int, Range(80, 1_000_000)] = 256
    block: Annotated[int, Range(1, 100_000)] = 256
    slab: Annotated[int, Range(1, 10_000_000)] = 50_000
    restarts: Annotated[int, Range(0, 1000)] = 20
