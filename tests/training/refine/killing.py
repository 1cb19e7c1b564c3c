"""Steps that say where they ran and wait to be killed, and parts that kill the worker that writes them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from training.cluster.rows import Column, Row
from training.cluster.settings import Resources
from training.refine.parts import Parts
from training.refine.settings import CaptionSettings, ClipSettings
from training.refine.step import Step
from training.refine.steps.captions import CaptionStep
from training.refine.steps.clips import ClipStep

PATIENCE = 300  # s, for another process on a busy machine


class ClipsSomewhere(ClipStep):
    """Clips; `clips_node` has the Ray node. After the first batch it waits for a file."""

    columns: ClassVar[dict[str, Column]] = {**ClipStep.columns, "clips_node": Column("text", "")}

    def __init__(self, gate: Path, cpus: float):
        super().__init__(ClipSettings(resources=Resources(cpus=cpus, batch=2)))
        self.gate, self.batches = gate, 0

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        end = time.monotonic() + PATIENCE
        while self.batches and not self.gate.exists() and time.monotonic() < end:
            time.sleep(0.02)
        self.batches += 1
        return [{**found, "clips_node": node()} for found in super().measure(rows)]


class CaptionsSomewhere(CaptionStep):
    """Captions; `captions_node` has the Ray node."""

    columns: ClassVar[dict[str, Column]] = {**CaptionStep.columns, "captions_node": Column("text", "")}

    def __init__(self, cpus: float):
        super().__init__(CaptionSettings(frames="none", resources=Resources(cpus=cpus, batch=2)))

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        return [{**found, "captions_node": node()} for found in super().measure(rows)]


def node() -> str:
    """The node that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else "none"


class FatalParts(Parts):
    """Parts that end the process by kill -9 when certain clips are written, once for each."""

    before: dict[str, bool]  # by clip: whether it is killed before or after the part is there
    done: Path  # a folder with a file for each kill

    @classmethod
    def of(cls, parts: Parts, step: Step, before: dict[tuple[str, str], bool], done: Path) -> FatalParts:
        made = cls.__new__(cls)
        made.__dict__.update(parts.__dict__)
        made.before, made.done = {clip: when for (name, clip), when in before.items() if name == step.name}, done
        made.step_name = step.name
        return made

    step_name: str

    def write(self, rows: Sequence[Row], took: float) -> None:
        for row in rows:
            mark = self.done / f"{self.step_name}-{row['id']}"
            if row["id"] in self.before and not mark.exists():
                mark.touch()
                if not self.before[row["id"]]:
                    super().write(rows, took)
                os.kill(os.getpid(), signal.SIGKILL)
        super().write(rows, took)
