"""A report as tables, in the shape of the paper's table 1 above its rows as quoted; and all of it as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sounding.utils.messages import printable

from .audiovisual import METRICS
from .control import CONTROLS
from .published import CLIP_SCORE, COLUMNS, HIGHER_IS_BETTER, IMAGEBIND, TABLE_1

# Figures by their keys in the JSON; those of table 1 have its columns.
IN_TABLE = {"acc": "ACC", "fad": "FAD", "kl_audioldm_eval": "KL", "is": "IS", "avc": "AVC"}
BESIDE = {
    "fad_infinity": "FAD-infinity",
    "kad": "KAD",
    "kl_av_benchmark": "KL (av-benchmark)",
    "is_in_order": "IS (not shuffled)",
    "cosine": "cosine to the reference",
}
IMAGES = {"ib": "IB", "cs": "CS"}
CONTROL = dict(zip(CONTROLS, ("selected above the others", "of two objects", "background"), strict=True))
TITLES = {**IN_TABLE, **BESIDE, **IMAGES, **CONTROL}
LOWER_IS_BETTER = {"fad", "kl_audioldm_eval", "fad_infinity", "kad", "kl_av_benchmark"}
BY_MODEL = {name: TITLES[name] for name in ("fad", *BESIDE)}
REAL = "Reference (real sounds)"


@dataclass(frozen=True)
class Row:
    """Cells of a row, the first of which names what it is of; names in it are as they came."""

    cells: list[str]
    kind: Literal["system", "real", "quoted"] = "system"


@dataclass(frozen=True)
class Table:
    """A table with its title, and sentences that belong below it."""

    title: str
    head: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """All figures of a report."""
    yield _first(report)
    yield _beside(report)
    if len(_sound_models(report)) > 1:
        yield _by_model(report)
    if report["differences"]:
        yield _differences(report)


def table(report: dict[str, Any]) -> str:
    """The whole report but its lists of names, as Markdown."""
    parts = []
    for one in tables(report):
        lines = [_line(one.head), _line(["---"] * len(one.head)), *(_line(map(escaped, row.cells)) for row in one.rows)]
        parts.append("".join(lines))
        parts += [f"{note}\n" for note in one.notes]
    parts.insert(len(parts) - bool(report["differences"]), "".join(_notes(report)))
    return "\n".join(parts)


def _first(report: dict[str, Any]) -> Table:
    head = [f"{name} ({'↑' if HIGHER_IS_BETTER[name] else '↓'})" for name in COLUMNS]
    by_column = {column: name for name, column in IN_TABLE.items()}
    names = [by_column.get(column, "") for column in COLUMNS]
    real = report["reference"]
    rows = [Row([REAL, str(real["sounds"]), *_cells(real["figures"], names)], "real")]
    rows += [Row([one["name"], str(one["pairs"]), *_cells(one["figures"], names)]) for one in report["systems"]]
    rows += [Row([f"{name} (quoted)", "", *values], "quoted") for name, values in TABLE_1.items()]
    labelled = [
        f"{printable(one['name'], 80)}: {one['figures']['acc']['count']} of {one['pairs']}"
        for one in report["systems"]
        if "acc" in one["figures"] and one["figures"]["acc"]["count"] < one["pairs"]
    ]
    notes = [f"ACC is over the pairs with labels ({', '.join(labelled)})."] if labelled else []
    return Table("In the shape of the paper's table 1", ["Method", "n", *head], rows, [_quoted_text(report), *notes])


def _quoted_text(report: dict[str, Any]) -> str:
    chosen = report["figures_by"]
    images = [f"{METRICS[one['metric']]}: {one['name']}" for one in report["models"] if "metric" in one]
    models = [f"ACC, KL and IS: {chosen['classes']}", f"FAD: {chosen['embeddings']}", *images]
    return (
        "Rows marked as quoted are the paper's (table 1: AudioCaps, PANNs, VGGish, OpenL3). They cannot be compared "
        f"with the others unless these were measured the same way; the models here are: {'; '.join(models)}."
    )


def _beside(report: dict[str, Any]) -> Table:
    names = [*BESIDE, *(name for name in (*IMAGES, *CONTROL) if _any_has(report["systems"], name))]
    rows = [Row([one["name"], *_cells(one["figures"], names)]) for one in report["systems"]]
    real = report["reference"]["figures"]
    if any(name in real for name in names):
        rows.insert(0, Row([REAL, *_cells(real, names)], "real"))
    notes = []
    for name, values in (("ib", IMAGEBIND), ("cs", CLIP_SCORE)):
        if name in names:
            quoted = ", ".join(f"{system} {value}" for system, value in values.items())
            notes.append(f"The paper's {IMAGES[name]}, quoted: {quoted}.")
    chances: dict[str, list[str]] = {}
    for one in report["systems"]:
        said = ", ".join(f"{CONTROL[name]} {value:.3f}" for name, value in one["chance"].items())
        chances.setdefault(said, []).append(printable(one["name"], 80))
    notes += [f"Chance for {', '.join(systems)}: {said}." for said, systems in chances.items() if said]
    return Table("Other figures", ["Method", *(_heading(name) for name in names)], rows, notes)


def _by_model(report: dict[str, Any]) -> Table:
    rows = [
        Row([one["name"], model, *_cells(one["by_model"][model]["figures"], BY_MODEL)])
        for one in report["systems"]
        for model in _sound_models(report)
    ]
    return Table("By each model of sounds", ["Method", "Model", *map(_heading, BY_MODEL)], rows)


def _differences(report: dict[str, Any]) -> Table:
    names = [name for name in TITLES if _any_has(report["differences"], name)]
    rows = [Row([" - ".join(one["of"]), *_cells(one["figures"], names)]) for one in report["differences"]]
    notes = ["Differences are over the items that both have, with paired intervals."]
    return Table("Differences", ["Difference", *map(_heading, names)], rows, notes)


def _sound_models(report: dict[str, Any]) -> list[str]:
    return [one["name"] for one in report["models"] if "metric" not in one]


def _any_has(entries: Iterable[dict[str, Any]], name: str) -> bool:
    return any(name in one["figures"] for one in entries)


def _heading(name: str) -> str:
    return f"{TITLES[name]} ({'↓' if name in LOWER_IS_BETTER else '↑'})"


def _notes(report: dict[str, Any]) -> Iterator[str]:
    for system in report["systems"]:
        kinds = ", ".join(f"{len(names)} {kind}" for kind, names in system["sounds"].items())
        yield f"- {escaped(system['name'])}: {system['pairs']} pairs; {kinds or 'nothing to note'}\n"
        if missing := system.get("without_image"):
            yield f"  - {len(missing)} pairs have no image or mask that can be used\n"
        for reason, names in reasons(system).items():
            yield f"  - without {', '.join(names)}: {reason}\n"


def reasons(system: dict[str, Any]) -> dict[str, list[str]]:
    """Why figures of a system could not be computed: a sentence, and the figures' keys."""
    found: dict[str, list[str]] = {}
    for name, reason in system["not_computed"].items():
        found.setdefault(reason, []).append(name)
    return found


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cells(figures: dict[str, Any], names: Sequence[str] | dict[str, str]) -> list[str]:
    return [_cell(figures.get(name)) for name in names]


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "not computed"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def escaped(text: str) -> str:
    """Text in a table of Markdown, which it must not break."""
    return printable(text, 200).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
