"""Room for one worker of every stage, which is seen to before anything runs: GPUs are enough, and CPUs are shared.

Ray gives a share below 1 out of one GPU, and whole GPUs out of one machine. A worker that fits nowhere would be waited
for without an end.
"""

from __future__ import annotations

from collections.abc import Sequence

from .settings import Resources
from .stage import Stage, StopRun

SPARE = 0.1  # share of the CPUs that pools leave to Ray's own tasks
SMALLEST = 0.01  # CPUs of a worker


def check_gpus(stages: Sequence[Stage], nodes: Sequence[float]) -> None:
    """Whether one worker of every stage finds its GPUs at the same time.

    Args:
        stages: all of a run.
        nodes: GPUs of each machine.

    Raises:
        StopRun: they do not.
    """
    asked = [stage for stage in stages if stage.resources.gpus]
    most = max([0.0, *nodes])
    for stage in asked:
        if stage.resources.gpus > most:
            there = f"no machine of the cluster has more than {most:g}" if most else "the cluster has none"
            raise StopRun(
                f"{stage.name} asks for {stage.resources.gpus:g} GPUs per worker, but {there}; set "
                f"{stage.gpus_setting} to {most:g}{' or less' if most else ''}."
            )
    free = [[1.0] * int(gpus) for gpus in nodes]  # of each GPU, by machine
    for gpus in sorted((stage.resources.gpus for stage in asked), reverse=True):  # what needs most room first
        if not _take(free, gpus):
            together = ", ".join(f"{stage.gpus_setting}={stage.resources.gpus:g}" for stage in asked)
            raise StopRun(
                f"One worker of each step does not fit into the {sum(nodes):g} GPUs of the cluster ({together}), but "
                "all steps run at once; set some lower, such as 0.5 for half a GPU, or 0."
            )


def _take(free: list[list[float]], gpus: float) -> bool:
    """Take GPUs where there are some, the fullest of those that have room; False if there are none."""
    if gpus >= 1:
        for machine in free:
            whole = [number for number, share in enumerate(machine) if share == 1]
            if len(whole) >= gpus:
                for number in whole[: int(gpus)]:
                    machine[number] = 0.0
                return True
        return False
    room = [
        (share, machine, number) for machine in free for number, share in enumerate(machine) if share >= gpus - 1e-6
    ]
    if not room:
        return False
    _, machine, number = min(room, key=lambda found: found[0])
    machine[number] -= gpus
    return True


def shares(asked: Sequence[Resources], nodes: Sequence[float]) -> list[float]:
    """CPUs per worker of each stage, scaled down until one worker of every stage fits, on whichever nodes they land.

    A worker of `s` CPUs finds no place if on each node less than `s` is free. So there is one for each if all others
    together take no more than what the nodes have beyond `s`.

    Args:
        asked: by each stage.
        nodes: CPUs of each node.
    """
    room = [(1 - SPARE) * cpus for cpus in nodes]

    def fits(sizes: Sequence[float]) -> bool:
        beyond = ((size, [cpus - size for cpus in room if cpus >= size]) for size in sizes)
        return all(free and sum(sizes) - size <= sum(free) + 1e-9 for size, free in beyond)

    scale = 1.0
    while scale > SMALLEST and not fits([scale * each.cpus for each in asked]):
        scale *= 0.98
    return [max(SMALLEST, int(100 * each.cpus * scale + 1e-6) / 100) for each in asked]
