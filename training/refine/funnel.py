"""What went in and out of each step, counted from the rows of a manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..cluster.rows import Row
from .lists import LABELS, LISTS
from .split import TEST, TRAIN
from .step import Step

BINS = 20  # of the scores' histogram
MOST_REASONS = 10_000  # of one step, which may name files; what comes beyond counts as others
OTHERS = "Other reasons."


@dataclass(frozen=True)
class Stage:
    """One step of the funnel."""

    name: str
    clips_in: int
    clips_out: int
    hours_in: float
    hours_out: float
    reasons: tuple[tuple[str, int], ...]  # why clips were dropped, the most frequent first


def funnel(rows: Iterable[Row], steps: Sequence[Step]) -> list[Stage]:
    """All steps in order, from the lists to the shards."""
    names = [LISTS, LABELS, *(step.name for step in steps), "shards"]
    place = {name: number for number, name in enumerate(names)}
    clips, seconds = [0] * (len(names) + 1), [0.0] * (len(names) + 1)  # that each step drops, and that are kept
    reasons: list[Counter[str]] = [Counter() for _ in names]
    for row in rows:
        number = place.get(row["dropped_by"], len(names))
        clips[number] += 1
        seconds[number] += row["sound_seconds"] or row["seconds"]
        if number < len(names):
            known = reasons[number]
            known[row["reason"] if len(known) < MOST_REASONS or row["reason"] in known else OTHERS] += 1
    clips_in = [sum(clips[number:]) for number in range(len(clips))]
    hours_in = [sum(seconds[number:]) / 3600 for number in range(len(clips))]
    return [
        Stage(name, clips_in[at], clips_in[at + 1], hours_in[at], hours_in[at + 1], tuple(reasons[at].most_common()))
        for at, name in enumerate(names)
    ]


def histogram(rows: Iterable[Row]) -> list[int]:
    """Matching scores of all clips that have one, in `BINS` equal bins from 0 to 1 (figure 7)."""
    counts = [0] * BINS
    for row in rows:
        score = row.get("matching_score")
        if score is not None:
            counts[min(BINS - 1, max(0, int(score * BINS)))] += 1
    return counts


def categories(rows: Iterable[Row]) -> list[tuple[str, float, float]]:
    """Categories of the kept clips with their hours in training and test set, the largest first (figure 10)."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if not row["dropped_by"]:
            seconds = found.setdefault(row["category"], {TRAIN: 0.0, TEST: 0.0})
            if row["subset"] in seconds:
                seconds[row["subset"]] += row["sound_seconds"] or row["seconds"]
    listed = [(name or "without a label", of[TRAIN] / 3600, of[TEST] / 3600) for name, of in found.items()]
    return sorted(listed, key=lambda one: (-one[1] - one[2], one[0]))


def drawn(rows: Iterable[Row], count: int) -> dict[str, list[Row]]:
    """Some rows of each step that dropped any, and of the kept ones (by ""): those with the smallest hashes of ids."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        some = found.setdefault(row["dropped_by"], [])
        some.append((hashlib.sha256(row["id"].encode("utf-8", "backslashreplace")).hexdigest(), row))
        if len(some) > 10 * count:
            found[row["dropped_by"]] = sorted(some, key=lambda one: one[0])[:count]
    return {name: [row for _, row in sorted(some, key=lambda one: one[0])[:count]] for name, some in found.items()}
