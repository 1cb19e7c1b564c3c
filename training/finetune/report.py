"""What `python -m training finetune` says at its end, and keeps as report.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What came of it. `before` and `after` are each object's places, from 1, among `among` objects by nearness of the
    sounds made of it to their recordings (`training.finetune.retrieval`).
    """

    checkpoint: str
    minutes: float  # of this call
    among: int
    recordings_nearest: float  # of real ones: the most that `after` can reach
    before: dict[str, list[int]]
    after: dict[str, list[int]]
    known_before: dict[str, list[int]]
    known_after: dict[str, list[int]]
    problems: list[str]
    licence: str

    def __str__(self) -> str:
        lines = [
            f"{self.checkpoint} knows {len(self.after)} more objects, after {self.minutes:.0f} minutes.",
            f"Licence: {self.licence}",
            "",
            f"Place of an object's own recordings among those of {self.among} objects, by what is made of it:",
        ]
        for name, places in self.after.items():
            lines.append(f"  {name}: {_listed(self.before[name])} before, {_listed(places)} now")
        for label, before, after in (
            ("new objects", self.before, self.after),
            ("known objects", self.known_before, self.known_after),
        ):
            if after:
                count = sum(len(places) for places in after.values())
                lines.append(f"In first place, {label}: {_firsts(before)} before, {_firsts(after)} now, of {count}.")
        lines.append(f"Other cuts of the real recordings: {self.recordings_nearest:.0%} in first place.")
        return "\n".join(lines + [f"Left out: {problem}" for problem in self.problems])


def _listed(places: list[int]) -> str:
    return " and ".join(map(str, places))


def _firsts(ranks: dict[str, list[int]]) -> int:
    return sum(rank == 1 for item_ranks in ranks.values() for rank in item_ranks)
