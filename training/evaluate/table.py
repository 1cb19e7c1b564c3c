"""A report as Markdown: systems in the shape of the paper's table 1, above its rows as quoted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
BY_MODEL = {name: title for name, title in {**IN_TABLE, **BESIDE}.items() if name in {"fad", *BESIDE}}
REAL = "Reference (real sounds)"


def table(report: dict[str, Any]) -> str:
    """The whole report but its lists of names."""
    return "\n".join("".join(part) for part in (_first(report), _beside(report), _notes(report), _differences(report)))


def _first(report: dict[str, Any]) -> Iterator[str]:
    yield row(["Method", "n", *headings()])
    yield _rule(len(COLUMNS) + 2)
    real = report["reference"]
    yield row([REAL, str(real["sounds"]), *cells(real["figures"])])
    for system in report["systems"]:
        yield row([escaped(system["name"]), str(system["pairs"]), *cells(system["figures"])])
    for name, values in TABLE_1.items():
        yield row([f"{name} (quoted)", "", *values])
    yield f"\n{quoted_text(report)}\n"


def headings() -> list[str]:
    """Of table 1."""
    return [f"{name} ({'↑' if HIGHER_IS_BETTER[name] else '↓'})" for name in COLUMNS]


def cells(figures: dict[str, Any]) -> list[str]:
    """A row of table 1."""
    by_column = {column: name for name, column in IN_TABLE.items()}
    return [cell(figures.get(by_column.get(column, ""))) for column in COLUMNS]


def quoted_text(report: dict[str, Any]) -> str:
    """What the rows of table 1 are, and which models gave the others."""
    chosen = report["figures_by"]
    images = [f"{METRICS[one['metric']]}: {one['name']}" for one in report["models"] if "metric" in one]
    models = [f"ACC, KL and IS: {chosen['classes']}", f"FAD: {chosen['embeddings']}", *images]
    return (
        "Rows marked as quoted are the paper's (table 1: AudioCaps, PANNs, VGGish, OpenL3). They cannot be compared "
        f"with the others unless these were measured the same way; the models here are: {'; '.join(models)}."
    )


def _beside(report: dict[str, Any]) -> Iterator[str]:
    columns = BESIDE | {name: title for name, title in IMAGES.items() if _any_has(report, name)}
    columns |= {name: title for name, title in CONTROL.items() if _any_has(report, name)}
    yield row(["Method", *columns.values()])
    yield _rule(len(columns) + 1)
    real = report["reference"]["figures"]
    if any(name in real for name in columns):
        yield row([REAL, *(cell(real.get(name)) for name in columns)])
    for system in report["systems"]:
        yield row([escaped(system["name"]), *(cell(system["figures"].get(name)) for name in columns)])
    for name, values in (("ib", IMAGEBIND), ("cs", CLIP_SCORE)):
        if name in columns:
            quoted = ", ".join(f"{system} {value}" for system, value in values.items())
            yield f"\nThe paper's {IMAGES[name]}, quoted: {quoted}.\n"
    models = [one["name"] for one in report["models"] if "metric" not in one]
    if len(models) > 1:
        yield "\n" + row(["Method", "Model", *BY_MODEL.values()]) + _rule(len(BY_MODEL) + 2)
        for system in report["systems"]:
            for model in models:
                figures = system["by_model"][model]["figures"]
                yield row([escaped(system["name"]), escaped(model), *(cell(figures.get(name)) for name in BY_MODEL)])


def _any_has(report: dict[str, Any], name: str) -> bool:
    return any(name in system["figures"] for system in report["systems"])


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


def _differences(report: dict[str, Any]) -> Iterator[str]:
    if not report["differences"]:
        return
    names = {**IN_TABLE, **BESIDE, **IMAGES, **CONTROL}
    names = {name: title for name, title in names.items() if any(name in d["figures"] for d in report["differences"])}
    yield row(["Difference", *names.values()])
    yield _rule(len(names) + 1)
    for one in report["differences"]:
        called = " - ".join(map(escaped, one["of"]))
        yield row([called, *(cell(one["figures"].get(name)) for name in names)])


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def _rule(columns: int) -> str:
    return row(["---"] * columns)


def cell(found: dict[str, Any] | None) -> str:
    """A figure with its interval."""
    if found is None or found["value"] is None:
        return "not computed"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def escaped(name: str) -> str:
    """A name in a table, which it must not break."""
    return printable(name, 80).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
