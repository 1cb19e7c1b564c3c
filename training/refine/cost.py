"""What measured rates come to: hours on so many machines, and what the run waits for there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cluster.settings import Resources

MACHINE = (16, 1)  # CPUs and GPUs of the machines that a dry run reckons with
MACHINES = (1, 8, 64)


@dataclass(frozen=True)
class Cost:
    """What is left to do of one step."""

    step: str
    seconds: float  # of one worker
    resources: Resources


@dataclass(frozen=True)
class Estimate:
    """How long all steps together take."""

    hours: float
    waits_for: str


def estimate(costs: Sequence[Cost], machines: int, cpus: float, gpus: float) -> Estimate:
    """Hours of a run whose steps all work at the same time, without its start and its end.

    It takes at least the CPU hours over all CPUs, the GPU hours over all GPUs, and for each step its hours over as many
    workers as it may have; it waits for what takes longest of these.

    Args:
        costs: of the steps.
        machines: how many.
        cpus, gpus: of each.
    """
    bounds = {"CPUs": sum(each.seconds * each.resources.cpus for each in costs) / (machines * cpus)}
    on_gpus = sum(each.seconds * each.resources.gpus for each in costs)
    if on_gpus:
        bounds["GPUs"] = on_gpus / (machines * gpus) if gpus else float("inf")
    for each in costs:
        bounds[f"workers of {each.step}, {each.resources.workers} at most"] = each.seconds / each.resources.workers
    longest = max(bounds, key=lambda name: bounds[name])
    return Estimate(bounds[longest] / 3600, longest)
