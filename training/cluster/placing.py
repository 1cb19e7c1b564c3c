"""Whether the GPUs of a cluster are enough for one worker of every stage, which is known before anything runs.

Ray gives a share below 1 out of one GPU, and whole GPUs out of one machine. A worker that fits nowhere would be waited
for without an end.
"""

from __future__ import annotations

from collections.abc import Sequence

from .stage import Stage, StopRun


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
