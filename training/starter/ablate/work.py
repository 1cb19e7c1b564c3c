"""What a run of ablations has to make, and how long that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One thing to make: shared material, a training or a cell, with the size that its time follows from."""

    kind: str  # "scenes", "clips", "judge", "steps", "sound query" or "sounds"
    name: str
    amount: float
    done: bool
    seed: int | None = None

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def describe(work: Sequence[Work], speed: Mapping[str, float]) -> str:
    """What a run would do, and how long that takes."""
    open_work = [one for one in work if not one.done]
    total = sum(one.amount * speed[one.kind] for one in open_work)
    lines = [f"{len(work) - len(open_work)} of {len(work)} things are there. To be made:"]
    lines += [f"  {one}: {_duration(one.amount * speed[one.kind])}" for one in open_work]
    return "\n".join([*lines, f"About {_duration(total)} on this machine, one process."])


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min" if minutes else "under 1 min"
    )
