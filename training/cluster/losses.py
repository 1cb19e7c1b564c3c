"""Losses of nodes and workers: noticed while a stream runs, and told from errors of stages."""

from __future__ import annotations

import sys
import time
from typing import Any

from .stage import StopRun

LOOK = 1.0  # s between looks at the nodes
DRAINED_IDLE = 4  # Ray's `AUTOSCALER_DRAIN_IDLE`


class Lost(Exception):
    """Nodes or workers are gone with what they were at, and Ray does not go on by itself; the rest can be run again."""


def loss_in(error: Exception) -> Lost:
    """The loss that an error of a stream tells of.

    Raises:
        StopRun: of the stage that ended the stream, or workers that cannot start.
        Exception: the error itself, if it is about anything else.
    """
    found = next((each for each in causes(error) if isinstance(each, Lost)), None)
    if found is not None:
        return found
    cause = stop_run_in(error)
    if cause is not None:
        raise cause from None
    if any(getattr(each, "actor_init_failed", False) for each in causes(error)):
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise StopRun(
            f"Workers cannot start on the Ray cluster ({said[-1][:300]}); the same versions of this package and of its "
            "extras have to be installed on all nodes."
        ) from error
    if not is_loss(error):
        raise error
    return Lost(f"Workers of the Ray cluster are gone ({str(error).strip().splitlines()[0][:200]}).")


class NodeWatch:
    """Ends a stream as soon as a node is lost: a callback of Ray Data's executor, which calls it many times per second.

    Ray Data gives the work of lost workers to others, but it waits for ever where the rest of the cluster has no room
    for a worker of each stage.
    """

    def __init__(self) -> None:
        self.before: set[str] = set()
        self.next = 0.0

    def before_execution_starts(self, executor: Any) -> None:
        """Remember the nodes."""
        self.before = alive()

    def on_execution_step(self, executor: Any) -> None:
        """Look at the nodes.

        Raises:
            Lost: there are fewer.
        """
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + LOOK
        gone = self.before - alive()
        if gone:
            raise Lost(f"{len(gone)} of {len(self.before)} nodes of the Ray cluster are gone.")

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""


def alive() -> set[str]:
    """Nodes that are there, and those that an autoscaler took away because nothing ran on them."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"] or node.get("DeathReason") == DRAINED_IDLE}


def is_loss(error: BaseException) -> bool:
    """Whether an error is about processes or machines, and not about what a stage did."""
    if "ray" not in sys.modules:
        return False
    import ray.exceptions as kinds

    losses = (
        kinds.RayActorError,
        kinds.NodeDiedError,
        kinds.ObjectLostError,
        kinds.WorkerCrashedError,
        kinds.OutOfMemoryError,
        kinds.LocalRayletDiedError,
    )
    wrapped = causes(error)
    of_stage = [
        each for each in wrapped if isinstance(each, kinds.RayTaskError) and not isinstance(each.cause, kinds.RayError)
    ]
    return not of_stage and any(isinstance(each, losses) for each in wrapped)


def stop_run_in(error: BaseException) -> StopRun | None:
    """The `StopRun` of a stage that Ray's errors wrap."""
    found = next((each for each in causes(error) if isinstance(each, StopRun)), None)
    return found and StopRun(str(found.args[0]) if found.args else str(found))


def causes(error: BaseException) -> list[BaseException]:
    """An error and all that it wraps."""
    waiting: list[Any] = [error]
    seen: list[BaseException] = []
    while waiting:
        current = waiting.pop()
        if isinstance(current, BaseException) and current not in seen:
            seen.append(current)
            waiting += [current.__context__, current.__cause__, getattr(current, "cause", None)]
    return seen
