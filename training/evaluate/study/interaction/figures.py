"""Time, attempts and satisfaction per condition, and tests between conditions: table 2 of the paper.

Participants are what is drawn, so intervals are Student's over participants' means; with one task per participant that
is how the half-widths of table 2 are had. Where several tasks were done there is also an interval for other
participants *and* other tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

from sounding.utils.messages import shown

from ..statistics import (
    Matrix,
    crossed_interval,
    crossed_tests,
    holm,
    json_ready,
    matrix_of,
    mean_of,
    means_along,
    pairs_of,
)
from .log import Trial

MAIN = ("minutes", "attempts", "satisfaction")  # the columns of table 2
MORE = ("first_sound", "waiting", "hands_on", "clicks", "corrections", "plays")


def figures_of(trials: Sequence[Trial], left_out: Sequence[str] = (), ours: str = "") -> dict[str, Any]:
    """All figures of the trials of one study.

    Args:
        trials: one per participant, task and condition.
        left_out: sentences about what was left out, for the report.
        ours: the condition that is tested against each other one; without it all pairs are.

    Returns:
        A dictionary for JSON; figures that cannot be had are None.

    Raises:
        ValueError: trials of several studies, or no condition called `ours`.
    """
    studies = sorted({each.study for each in trials})
    if len(studies) != 1:
        found = ", ".join(studies) or "none that is asked for"
        raise ValueError(f"The logs have trials of these studies: {found}; choose one with --study.")
    conditions = sorted({each.condition for each in trials})
    if ours and ours not in conditions:
        raise ValueError(f"--ours is {shown(ours)}, but one of {', '.join(conditions)} is expected.")
    return dict(
        json_ready(
            {
                "study": studies[0],
                "ours": ours,
                "trials": len(trials),
                "participants": len({each.participant for each in trials}),
                "tasks": len({each.task for each in trials}),
                "conditions": {name: _condition([t for t in trials if t.condition == name]) for name in conditions},
                "tests": _tests(trials, pairs_of(conditions, ours)),
                "left_out": [*left_out, *_odd_images(trials)],
            }
        )
    )


def _condition(trials: Sequence[Trial]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "trials": len(trials),
        "participants": len({each.participant for each in trials}),
        "tasks": len({each.task for each in trials}),
        "given_up": sum(not each.reached for each in trials),
        "unmade": sum(each.unmade for each in trials),
    }
    for measure in (*MAIN, *MORE):
        matrix = _matrix(trials, measure)
        low, high = crossed_interval(matrix)
        found[measure] = {**asdict(mean_of(means_along(matrix, 1))), "crossed_low": low, "crossed_high": high}
    return found


def _matrix(trials: Sequence[Trial], measure: str) -> Matrix:
    """Values [participants, tasks]."""
    return matrix_of({(each.participant, each.task): float(getattr(each, measure)) for each in trials})


def _tests(trials: Sequence[Trial], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired tests of what the same participants did of the same tasks under both conditions.

    Beside the t-tests of `crossed_tests`, Wilcoxon's signed-rank test over participants, since times are skewed and
    ratings are ordinal; its p is corrected among all rows, too.
    """
    compared = [
        (measure, first, second, _differences(trials, measure, first, second))
        for measure in MAIN
        for first, second in pairs
    ]
    tests = crossed_tests(compared)
    ranks = np.array([_wilcoxon(means_along(matrix, 1)) for *_, matrix in compared])
    for test, (*_, matrix), p, adjusted in zip(tests, compared, ranks, holm(ranks), strict=True):
        test["participants"], test["tasks"] = test.pop("raters"), test.pop("samples")
        test["pairs"] = int(np.isfinite(matrix).sum())
        test["wilcoxon"] = {"p": float(p), "p_holm": float(adjusted)}
    return tests


def _differences(trials: Sequence[Trial], measure: str, first: str, second: str) -> Matrix:
    """How much more it was under the first condition: [participants, tasks]."""
    values = {(each.condition, each.participant, each.task): float(getattr(each, measure)) for each in trials}
    both = {
        (participant, task): value - values[second, participant, task]
        for (condition, participant, task), value in values.items()
        if condition == first and (second, participant, task) in values
    }
    return matrix_of(both)


def _wilcoxon(differences: Matrix) -> float:
    """The p of Wilcoxon's signed-rank test, two-sided; NaN where fewer than two differ from 0."""
    known = differences[np.isfinite(differences) & (differences != 0)]
    return float(stats.wilcoxon(known).pvalue) if len(known) >= 2 else float("nan")


def _odd_images(trials: Sequence[Trial]) -> list[str]:
    """Tasks that were done on several images."""
    images: dict[str, set[str]] = {}
    for each in trials:
        images.setdefault(each.task, set()).add(each.image)
    return [
        f"{task} was done on {len(found)} different image files; all of it counts."
        for task, found in sorted(images.items())
        if len(found) > 1
    ]
