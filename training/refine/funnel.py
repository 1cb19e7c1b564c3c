"""What went in and out of each step, counted from the rows of a manifest."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sounding.utils.messages import printable

from ..cluster.rows import Row
from .lists import LABELS, LISTS
from .rows import seconds_of
from .split import TEST, TRAIN
from .step import Step

BINS = 20  # of the scores' histogram
MOST_REASONS = 10_000  # of one step, which may name anything; what comes beyond counts as others
OTHERS = "Other reasons."


@dataclass(frozen=True)
class Stage:
    """One step of the funnel."""

    name: str
    clips_in: int
    clips_out: int
    hours_in: float
    hours_out: float
    reasons: tuple[tuple[str, int], ...]  # why clips were dropped, by `kind_of`, the most frequent first

    def grouped(self, most: int) -> list[tuple[str, int]]:
        """The most frequent reasons, and all others as one."""
        named = [(reason, count) for reason, count in self.reasons if reason != OTHERS][:most]
        others = self.clips_in - self.clips_out - sum(count for _, count in named)
        return [*named, *([(OTHERS, others)] if others else [])]


def funnel(rows: Iterable[Row], steps: Sequence[Step]) -> list[Stage]:
    """All steps in order, from the lists to the shards."""
    names = [LISTS, LABELS, *(step.name for step in steps), "shards"]
    place = {name: number for number, name in enumerate(names)}
    clips, seconds = [0] * (len(names) + 1), [0.0] * (len(names) + 1)  # that each step drops, and that are kept
    reasons: list[Counter[str]] = [Counter() for _ in names]
    for row in rows:
        number = place.get(row["dropped_by"], len(names))
        clips[number] += 1
        seconds[number] += seconds_of(row)
        if number < len(names):
            known = reasons[number]
            kind = kind_of(row)
            known[kind if len(known) < MOST_REASONS or kind in known else OTHERS] += 1
    clips_in = [sum(clips[number:]) for number in range(len(clips))]
    hours_in = [sum(seconds[number:]) / 3600 for number in range(len(clips))]
    return [
        Stage(name, clips_in[at], clips_in[at + 1], hours_in[at], hours_in[at + 1], tuple(reasons[at].most_common()))
        for at, name in enumerate(names)
    ]


def as_text(stages: Sequence[Stage], width: int, height: int) -> str:
    """The funnel as a table for a terminal of that size: what each step dropped, and the most frequent reasons.

    Where there are too many lines, each step has fewer reasons, but one at least.
    """
    name_width = max(len(stage.name) for stage in stages)
    counts = [len(f"{stages[0].clips_in:,}"), len("dropped")]
    head = f"{'step':<{name_width}}  {'clips':>{counts[0]}}  {'dropped':>{counts[1]}}  {'hours left':>10}  why"
    lines = [head]
    for most in (4, 3, 2, 1):
        lines = [head]
        for stage in stages:
            why = [f"{count:,}: {reason}" for reason, count in stage.grouped(most)]
            dropped = stage.clips_in - stage.clips_out
            first = f"{stage.name:<{name_width}}  {stage.clips_in:>{counts[0]},}  {dropped:>{counts[1]},}"
            first += f"  {stage.hours_out:>10.2f}  "
            lines += [first + "".join(why[:1]), *(" " * len(first) + each for each in why[1:])]
        if len(lines) < height:
            break
    return "\n".join(printable(line.rstrip(), max(width, 40)) for line in lines)


def kind_of(row: Row) -> str:
    """The reason for which a row was dropped, without the names of its clip and file, so that equal ones are equal."""
    reason = str(row["reason"])
    path = row["path"] or ""
    for name in (path, Path(path).name, row["id"], row["video"]):
        shown = printable(name)
        if shown and shown in reason:
            reason = re.sub(rf"(?<!\w){re.escape(shown)}(?!\w)", "…", reason)
    return reason


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
                seconds[row["subset"]] += seconds_of(row)
    listed = [(name or "without a label", of[TRAIN] / 3600, of[TEST] / 3600) for name, of in found.items()]
    return sorted(listed, key=lambda one: (-one[1] - one[2], one[0]))


def drawn(rows: Iterable[Row], count: int, own: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[Row]]:
    """Some rows of each step and reason that dropped any, and of the kept ones (by "", ""): those with the smallest
    hashes of ids.

    Args:
        count: rows of each at most.
        own: reasons of each step that have rows of their own; the others are one, `OTHERS`.
    """
    reasons = {step: set(kinds) for step, kinds in own.items()}
    found: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for row in rows:
        step, kind = row["dropped_by"], ""
        if step:
            kind = kind_of(row)
            kind = kind if kind in reasons.get(step, ()) else OTHERS
        some = found.setdefault((step, kind), [])
        some.append((hashlib.sha256(row["id"].encode("utf-8", "backslashreplace")).hexdigest(), row))
        if len(some) > 10 * count:
            found[step, kind] = sorted(some, key=lambda one: one[0])[:count]
    return {group: [row for _, row in sorted(some, key=lambda one: one[0])[:count]] for group, some in found.items()}
