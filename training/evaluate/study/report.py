"""What the raters of a listening test said: means, controls, agreement and tests, as JSON and Markdown."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sounding.utils.files import write_atomic
from sounding.utils.messages import shown

from .database import Answer, read_answers
from .markdown import as_markdown
from .plan import PREFERENCE, SCALES
from .samples import CONTROL
from .statistics import (
    Compared,
    Matrix,
    Metric,
    cohen_kappas,
    crossed_interval,
    crossed_tests,
    json_ready,
    krippendorff_alpha,
    matrix_of,
    mean_of,
    pairs_of,
)

CONTROL_SHARE = 0.75  # of a rater's comparisons with noise in which the sound has to be preferred


def make_report(
    database: Path, *, ours: str = "", control_limit: float = 2.0, leave_out_failed: bool = False
) -> dict[str, Any]:
    """All figures of a study so far.

    Args:
        database: file that `serve` wrote; raters may go on meanwhile.
        ours: the system that is tested against each other one; without it all pairs are.
        control_limit: a rater whose noise-only controls have a higher mean fails.
        leave_out_failed: whether the ratings of raters who failed are left out.

    Returns:
        A dictionary for JSON; figures that cannot be had are None.

    Raises:
        ValueError: no database of a study, no ratings, or no system called `ours`.
    """
    settings, answers = read_answers(database)
    if not answers:
        raise ValueError(f"{database} has no ratings yet; report again when somebody has rated.")
    controls = check_controls(answers, control_limit)
    failed = {each["rater"] for each in controls if each["passed"] is False}
    real = [each for each in answers if CONTROL not in (each.system, each.other)]
    kept = [each for each in real if not (leave_out_failed and each.rater in failed)]
    if not kept:
        raise ValueError(f"{database} has no ratings of raters who passed the controls; look at the failed ones first.")
    systems = sorted({name for each in kept for name in (each.system, each.other) if name})
    ours = ours or settings.against
    if ours and ours not in systems:
        raise ValueError(f"--ours is {shown(ours)}, but one of {', '.join(systems)} is expected.")
    figures: dict[str, Any] = {
        "settings": asdict(settings),
        "raters": len({each.rater for each in kept}),
        "rated": len({(each.rater, each.item, each.system, each.other) for each in kept}),
        "median_seconds": float(np.median([each.seconds for each in kept])),
        "controls": controls,
        "failed_raters_left_out": leave_out_failed and bool(failed),
    }
    if settings.protocol == "rate":
        figures |= {
            "systems": _means(kept, systems),
            "tests": crossed_tests(_differences(kept, pairs_of(systems, ours))),
            "agreement": {scale: _agreement(_matrix(kept, scale), "ordinal") for scale in _scales(kept)},
        }
    else:
        kept = [_oriented(each, ours) for each in kept]
        figures |= {
            "preferences": _preferences(kept),
            "tests": crossed_tests(_preferred(kept)),
            "agreement": {PREFERENCE: _agreement(_matrix(kept, PREFERENCE), "nominal")},
        }
    figures["ours"] = ours
    return json_ready(figures)


def write_report(figures: dict[str, Any], out: Path | None) -> str:
    """The report as Markdown; with a folder, also as its study.md and study.json."""
    text = as_markdown(figures)
    if out:
        write_atomic(out / "study.json", json.dumps(figures, indent=1).encode())
        write_atomic(out / "study.md", text.encode())
    return text


def check_controls(answers: Sequence[Answer], limit: float) -> list[dict[str, Any]]:
    """Per rater, how noise alone was rated, and whether that is low enough.

    Rated sounds: the mean over controls and scales must be at most `limit`. Compared sounds: the sound has to be
    preferred to noise in `CONTROL_SHARE` of the controls. `passed` is None for a rater who rated none yet.
    """
    names = {each.rater: each.name for each in answers}
    given: dict[int, list[float]] = defaultdict(list)
    compared = any(each.scale == PREFERENCE for each in answers)
    for each in answers:
        if CONTROL in (each.system, each.other):
            preferred = each.value == (1 if each.other == CONTROL else -1)
            given[each.rater].append(float(preferred) if compared else each.value)
    found = []
    for rater, name in names.items():
        mean = float(np.mean(given[rater])) if given[rater] else None
        passed = None if mean is None else mean >= CONTROL_SHARE if compared else mean <= limit
        found.append({"rater": rater, "name": name, "answers": len(given[rater]), "mean": mean, "passed": passed})
    return found


def _scales(answers: Iterable[Answer]) -> list[str]:
    there = {each.scale for each in answers}
    return [scale for scale in SCALES if scale in there]


def _matrix(answers: Iterable[Answer], scale: str) -> Matrix:
    """Values of a scale as [raters, samples]; a sample is an item with its system or systems."""
    return matrix_of({(a.rater, (a.item, a.system, a.other)): a.value for a in answers if a.scale == scale})


def _means(answers: Sequence[Answer], systems: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for system in systems:
        own = [each for each in answers if each.system == system]
        found[system] = {}
        for scale in _scales(own):
            matrix = _matrix(own, scale)
            low, high = crossed_interval(matrix)
            found[system][scale] = {
                **asdict(mean_of(matrix.ravel())),
                "crossed_low": low,
                "crossed_high": high,
                "raters": matrix.shape[0],
                "samples": matrix.shape[1],
            }
    return found


def _differences(answers: Sequence[Answer], pairs: Sequence[tuple[str, str]]) -> list[Compared]:
    """How much higher each rater rated the first system's sound of each item."""
    values: dict[tuple[str, str], dict[tuple[int, str], int]] = defaultdict(dict)
    for each in answers:
        values[each.scale, each.system][each.rater, each.item] = each.value
    found = []
    for scale in _scales(answers):
        for system, other in pairs:
            own, others = values[scale, system], values[scale, other]
            both = {key: own[key] - others[key] for key in own.keys() & others.keys()}
            found.append((scale, system, other, matrix_of(both)))
    return found


def _oriented(answer: Answer, ours: str) -> Answer:
    """The comparison with its systems in a fixed order, `ours` first."""
    a, b = answer.system, answer.other
    if a == ours or (b != ours and a < b):
        return answer
    return Answer(**{**asdict(answer), "system": b, "other": a, "value": -answer.value})


def _preferred(answers: Sequence[Answer]) -> list[Compared]:
    pairs = sorted({(each.system, each.other) for each in answers})
    return [
        (PREFERENCE, *pair, _matrix([each for each in answers if (each.system, each.other) == pair], PREFERENCE))
        for pair in pairs
    ]


def _preferences(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """How often each pair's first system was preferred; one without a difference counts as half."""
    found = []
    for _, system, other, matrix in _preferred(answers):
        low, high = crossed_interval((matrix + 1) / 2)
        values = matrix[np.isfinite(matrix)]
        found.append(
            {
                "system": system,
                "other": other,
                "preferred": int((values == 1).sum()),
                "no_difference": int((values == 0).sum()),
                "other_preferred": int((values == -1).sum()),
                "share": float((values.mean() + 1) / 2),
                "crossed_low": low,
                "crossed_high": high,
                "raters": matrix.shape[0],
                "samples": matrix.shape[1],
            }
        )
    return found


def _agreement(matrix: Matrix, metric: Metric) -> dict[str, Any]:
    """Cohen's kappa as the mean over pairs of raters, and Krippendorff's alpha of all."""
    found: dict[str, Any] = {"alpha": {"metric": metric, **asdict(krippendorff_alpha(matrix, metric))}}
    for name, quadratic in (("kappa", False), ("quadratic_kappa", True)):
        kappas = cohen_kappas(matrix, quadratic=quadratic)
        spread = np.quantile(kappas, [0.05, 0.95]) if len(kappas) else (np.nan, np.nan)
        found[name] = {
            "mean": float(kappas.mean()) if len(kappas) else np.nan,
            "of_pairs_5_to_95_percent": [float(each) for each in spread],
            "pairs": len(kappas),
        }
    return found
