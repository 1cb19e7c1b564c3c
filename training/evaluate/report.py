"""Features of systems and reference to figures: JSON, and a table in the shape of the paper's table 1."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from sounding.utils.messages import printable

from . import scores
from .folders import Side, pairs, problems
from .frechet import fad_infinity, frechet_distances
from .intervals import Array, Figure, draw_weights, figure, weighted_means
from .kernel import kernel_distances
from .published import COLUMNS, HIGHER_IS_BETTER, TABLE_1
from .store import Rows

# Figures by their keys in the JSON; those of table 1 have its columns.
IN_TABLE = {"acc": "ACC", "fad": "FAD", "kl_audioldm_eval": "KL", "is": "IS"}
BESIDE = {
    "fad_infinity": "FAD-infinity",
    "kad": "KAD",
    "kl_av_benchmark": "KL (av-benchmark)",
    "is_in_order": "IS (not shuffled)",
    "cosine": "cosine to the reference",
}


@dataclass
class Resampled:
    """Values of each metric, the first of which is the figure; sample counts; why other metrics have none."""

    values: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Figure]:
        """With intervals."""
        return {name: figure(values, self.counts[name]) for name, values in self.values.items()}


def read_labels(path: Path, classes: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
    """Class numbers per stem of a CSV with the columns `name` and `labels` (separated by ";"), and labels unknown here.

    Raises:
        ValueError: it cannot be read, or has no such columns.
    """
    known = {name.casefold(): number for number, name in enumerate(classes)}
    labels: dict[str, list[int]] = {}
    unknown: set[str] = set()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"name", "labels"} <= set(rows.fieldnames or ()):
                raise ValueError("it has other columns")
            for row in rows:
                given = [label.strip() for label in (row["labels"] or "").split(";") if label.strip()]
                labels[row["name"] or ""] = sorted({known[x.casefold()] for x in given if x.casefold() in known})
                unknown |= {label for label in given if label.casefold() not in known}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no list of labels ({printable(error, 200)}); give a CSV with the columns name and labels."
        ) from None
    return labels, sorted(unknown)


def resample_metrics(
    side: Side,
    reference: Side,
    names: Sequence[str],
    weights: Array,
    classes: Sequence[str],
    labels: dict[str, list[int]] | None,
) -> Resampled:
    """All metrics of the pairs `names` for each row of weights; what cannot be computed says why."""
    found = Resampled()
    own, others = side.store.rows(names), reference.store.rows(names)
    made, real = (
        cast(Array, Rows(store.embeddings, rows)) for store, rows in ((side.store, own), (reference.store, others))
    )
    made_logits, real_logits = (
        cast(Array, Rows(store.logits, rows)) for store, rows in ((side.store, own), (reference.store, others))
    )

    def put(name: str, compute: Callable[[], Array], needs_classes: bool = False) -> None:
        try:
            if needs_classes and not classes:
                raise ValueError("The model has no classes; give a classifier.")
            values = compute()
            found.values[name], found.counts[name] = values, len(names)
        except ValueError as error:
            found.not_computed[name] = str(error)

    def mean(name: str, compute: Callable[[], Array], needs_classes: bool = False) -> None:
        def means() -> Array:
            values = compute()
            if not np.isfinite(values).any():
                raise ValueError("No sound has a value.")
            counts[name] = int(np.isfinite(values).sum())
            return weighted_means(values, weights)

        counts: dict[str, int] = {}
        put(name, means, needs_classes)
        found.counts.update(counts)

    def confidences() -> Array:
        if labels is None:
            raise ValueError("There are no labels; give --labels.")
        left_out = [number for number, name in enumerate(classes) if name in scores.LEFT_OUT]
        return scores.label_confidences(made_logits, [labels.get(name, []) for name in names], left_out)

    mean("acc", confidences, True)
    put("fad", lambda: frechet_distances(made, real, weights))
    mean("kl_audioldm_eval", lambda: scores.kl_divergences(made_logits, real_logits, "audioldm_eval"), True)
    mean("kl_av_benchmark", lambda: scores.kl_divergences(made_logits, real_logits, "av_benchmark"), True)
    put("is", lambda: scores.inception_scores(made_logits, weights), True)
    put("is_in_order", lambda: scores.inception_scores(made_logits, weights, shuffle_seed=None), True)
    put("kad", lambda: kernel_distances(made, real, weights))
    mean("cosine", lambda: scores.cosines(made, real))
    return found


def measure(
    sides: Sequence[Side],
    reference: Side,
    classes: Sequence[str],
    labels: dict[str, list[int]] | None = None,
    *,
    resamples: int = 200,
) -> dict[str, Any]:
    """Figures of every system, and of the differences between the first and each other one, as JSON has them."""
    report: dict[str, Any] = {"systems": [], "differences": []}
    for side in sides:
        names = pairs(side, reference)
        found = resample_metrics(side, reference, names, _weights(names, resamples), classes, labels)
        figures = found.figures()
        own, others = side.store.rows(names), reference.store.rows(names)
        try:
            made = cast(Array, Rows(side.store.embeddings, own))
            real = cast(Array, Rows(reference.store.embeddings, others))
            figures["fad_infinity"] = fad_infinity(made, real, resamples=resamples)
        except ValueError as error:
            found.not_computed["fad_infinity"] = str(error)
        found.not_computed["avc"] = "There is no encoder of images and sounds beside the model."
        report["systems"].append(
            {
                "name": side.name,
                "folder": str(side.folder),
                "pairs": len(names),
                "figures": {name: _plain(value) for name, value in figures.items()},
                "not_computed": found.not_computed,
                "sounds": {kind: found for kind, found in problems(side, reference) if found},
                "unreadable": side.unreadable,
            }
        )
    for side in sides[1:]:
        names = sorted(set(pairs(sides[0], reference)) & set(pairs(side, reference)))
        weights = _weights(names, resamples)
        first, second = (resample_metrics(s, reference, names, weights, classes, labels) for s in (sides[0], side))
        report["differences"].append(
            {
                "of": [sides[0].name, side.name],
                "pairs": len(names),
                "figures": {
                    name: _plain(figure(values - second.values[name], first.counts[name]))
                    for name, values in first.values.items()
                    if name in second.values
                },
            }
        )
    report["reference"] = {"folder": str(reference.folder), "unreadable": reference.unreadable}
    return report


def _weights(names: Sequence[str], resamples: int) -> Array:
    return draw_weights(len(names), resamples) if names else np.ones((1, 0), np.float32)


def _plain(found: Figure) -> dict[str, float | int | None]:
    """A figure as JSON has it: no NaN."""
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return {**{name: x if math.isfinite(x) else None for name, x in numbers.items()}, "count": found.count}


def table(report: dict[str, Any]) -> str:
    """Markdown: the systems in the columns of table 1 above the paper's rows as quoted, and the other figures."""
    head = [f"{name} ({'↑' if HIGHER_IS_BETTER[name] else '↓'})" for name in COLUMNS]
    lines = _row(["Method", "n", *head]) + _row(["---"] * (len(head) + 2))
    by_column = {column: name for name, column in IN_TABLE.items()}
    for system in report["systems"]:
        cells = [_cell(system["figures"].get(by_column.get(column, ""))) for column in COLUMNS]
        lines += _row([_escaped(system["name"]), str(system["pairs"]), *cells])
    for name, values in TABLE_1.items():
        lines += _row([f"{name} (quoted)", "", *values])
    lines += (
        "\nRows marked as quoted are the paper's (table 1: AudioCaps, PANNs, VGGish, OpenL3). They cannot be compared "
        f"with the others unless these were measured the same way; the model here is: {report['model']}.\n\n"
    )
    lines += _row(["Method", *BESIDE.values()]) + _row(["---"] * (len(BESIDE) + 1))
    for system in report["systems"]:
        lines += _row([_escaped(system["name"]), *(_cell(system["figures"].get(name)) for name in BESIDE)])
    lines += "\n"
    for system in report["systems"]:
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in system["sounds"].items())
        lines += f"- {_escaped(system['name'])}: {system['pairs']} pairs; {kinds or 'nothing to note'}\n"
        reasons: dict[str, list[str]] = {reason: [] for reason in system["not_computed"].values()}
        for name, reason in system["not_computed"].items():
            reasons[reason].append(name)
        lines += "".join(f"  - without {', '.join(names)}: {reason}\n" for reason, names in reasons.items())
    if report["differences"]:
        names = {**IN_TABLE, **BESIDE}
        lines += "\n" + _row(["Difference", *names.values()]) + _row(["---"] * (len(names) + 1))
        for one in report["differences"]:
            called = " - ".join(map(_escaped, one["of"]))
            lines += _row([called, *(_cell(one["figures"].get(name)) for name in names)])
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "not computed"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _escaped(name: str) -> str:
    return printable(name, 80).replace("|", "\\|")
