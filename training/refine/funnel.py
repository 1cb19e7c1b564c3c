"""What went in and out of each step, counted from the rows of a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..cluster.rows import Row
from .lists import LABELS, LISTS
from .split import TEST, TRAIN, hours
from .step import Step

BINS = 20  # of the scores' histogram


@dataclass(frozen=True)
class Stage:
    """One step of the funnel."""

    name: str
    clips_in: int
    clips_out: int
    hours_in: float
    hours_out: float
    reasons: tuple[tuple[str, int], ...]  # why clips were dropped, the most frequent first


def funnel(rows: Sequence[Row], steps: Sequence[Step]) -> list[Stage]:
    """All steps in order, from the lists to the shards."""
    found = []
    left = list(rows)
    for name in (LISTS, LABELS, *(step.name for step in steps), "shards"):
        stay = [row for row in left if row["dropped_by"] != name]
        reasons = Counter(row["reason"] for row in left if row["dropped_by"] == name)
        found.append(Stage(name, len(left), len(stay), hours(left), hours(stay), tuple(reasons.most_common())))
        left = stay
    return found


def histogram(rows: Sequence[Row]) -> list[int]:
    """Matching scores of all clips that have one, in `BINS` equal bins from 0 to 1 (figure 7)."""
    counts = [0] * BINS
    for row in rows:
        score = row.get("matching_score")
        if score is not None:
            counts[min(BINS - 1, max(0, int(score * BINS)))] += 1
    return counts


def categories(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Categories of the kept clips with their hours in training and test set, the largest first (figure 10)."""
    names = {row["category"] for row in rows if not row["dropped_by"]}
    found = []
    for name in names:
        of_it = [row for row in rows if row["category"] == name and not row["dropped_by"]]
        train, test = (hours(row for row in of_it if row["subset"] == subset) for subset in (TRAIN, TEST))
        found.append((name or "without a label", train, test))
    return sorted(found, key=lambda one: (-one[1] - one[2], one[0]))
