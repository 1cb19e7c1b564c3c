"""Figures of all cells to report.json, and to tables beside the paper's figures, as Markdown and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .claims import (
    FIRST,
    HIGHER_IS_BETTER,
    JUDGED_BY,
    RULE,
    Interval,
    build_claims,
    interval,
    judge_claim,
)
from .rows import COLUMNS, Row

SHOWN = {
    "acc": "ACC",
    "fad": "FAD",
    "kl": "KL",
    "is": "IS",
    "kad": "KAD",
    "control": "control",
    "top1": "top-1",
    "top5": "top-5",
}
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # name of a cell -> seed -> content of its file


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def build_report(
    rows: Sequence[Row],
    results: Results,
    reference: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that was measured, as JSON.

    Args:
        rows: of all tables.
        results: of the cells that are measured.
        reference: figures of the real sounds themselves.
        settings: of the run.
        notes: what could not be made, and why.
    """
    plain = {name: {seed: dict(found["figures"]) for seed, found in seeds.items()} for name, seeds in results.items()}
    wanted = settings["seeds"]
    report: dict[str, Any] = {"settings": dict(settings), "reference": dict(reference), "rows": [], "claims": []}
    for row in rows:
        seeds = results.get(row.name, {})
        first = next(iter(seeds.values()), {})
        figures = {metric: _values(seeds, metric) for metric in SHOWN}
        report["rows"].append(
            {
                "table": row.table,
                "title": row.title,
                "cell": row.name,
                "quoted": dict(zip(COLUMNS, row.quoted, strict=True)) if row.quoted else None,
                "figures": {metric: _plain(interval(values)) for metric, values in figures.items() if values},
                "by_seed": {str(seed): found["figures"] for seed, found in seeds.items()},
                "attention": {str(seed): found.get("attention", {}) for seed, found in seeds.items()},
                "counts": first.get("counts", {}),
                "missing_seeds": [seed for seed in wanted if seed not in seeds],
            }
        )
    for claim in build_claims():
        verdicts = {}
        for metric in JUDGED_BY:
            verdict, difference = judge_claim(claim, plain, metric)
            verdicts[metric] = {"verdict": verdict, "difference": _plain(difference) if difference else None}
        report["claims"].append(asdict(claim) | {"of": [claim.first.name, claim.second.name], "by": verdicts})
    return report | {"rule": RULE, "not_made": dict(notes)}


def build_tables(report: Mapping[str, Any]) -> list[Table]:
    """The report's tables: rows with their figures and the paper's, then the claims."""
    tables: dict[str, list[tuple[str, ...]]] = {}
    for row in report["rows"]:
        quoted = row["quoted"] or {}
        seeds = str(len(row["by_seed"]))
        cells = [_shown(row["figures"].get(metric)) for metric in SHOWN]
        papers = [f"{quoted[key]:g}" if key in quoted else "" for key in COLUMNS]
        tables.setdefault(row["table"], []).append((row["title"], *cells, seeds, *papers))
    better = {metric: "↑" if HIGHER_IS_BETTER[metric] else "↓" for metric in SHOWN}
    header = (
        "",
        *(f"{name} {better[metric]}" for metric, name in SHOWN.items()),
        "seeds",
        *(f"paper's {name}" for name in ("ACC", "FAD", "KL", "IS", "AVC")),
    )
    found = [Table(title, header, tuple(rows)) for title, rows in tables.items()]
    claims = []
    for claim in report["claims"]:
        first = claim["by"][FIRST]
        others = "; ".join(f"{SHOWN[m]}: {claim['by'][m]['verdict']}" for m in JUDGED_BY if m != FIRST)
        text = claim["text"] if claim["papers"] else f"{claim['text']} (a check, not the paper's claim)"
        claims.append((text, first["verdict"], _shown(first["difference"], sign=True), others))
    return [*found, Table("Claims", ("claim", "by ACC", "difference in ACC", "by the others"), tuple(claims))]


def sentences(report: Mapping[str, Any]) -> list[str]:
    """One sentence per claim, from the figures alone."""
    said = {
        "holds": "holds at this scale",
        "does not hold": "does not hold at this scale",
        "undecided": "is undecided at this scale",
        "not measured": "is not measured",
    }
    found = []
    for claim in report["claims"]:
        by = claim["by"][FIRST]
        difference = by["difference"]
        figures = f" (difference in ACC {_shown(difference, sign=True)})" if difference else ""
        found.append(f"{claim['text']}: {said[by['verdict']]}{figures}.")
    return found


def _introduction(report: Mapping[str, Any]) -> list[str]:
    settings = report["settings"]
    reference = ", ".join(
        f"{SHOWN[metric]} {value:.3f}" for metric, value in report["reference"].items() if metric in SHOWN
    )
    missing = [f"{row['cell']} ({len(row['missing_seeds'])})" for row in report["rows"] if row["missing_seeds"]]
    lines = [
        f"Figures are means over seeds of the training (planned: {', '.join(map(str, settings['seeds']))}), with 95 % "
        "intervals over seeds by Student's t distribution in brackets; they do not cover the choice of items. "
        f"{settings['items']} items of random stream {settings['item_stream']}, {settings['control_items']} of them "
        f"with several objects, for control. Figures in the columns of the paper are quoted; they are of other data "
        "and other models.",
        f"The real sounds themselves: {reference}.",
    ]
    if kept := settings.get("kept"):
        said = (f"{name} {one['clips']} ({one['pure']:.3f} with their own sounds)" for name, one in kept.items())
        lines.append(f"Of {settings['clips']} clips, half of them with foreign sounds, are kept: {'; '.join(said)}.")
    if missing:
        lines.append(f"Seeds are missing of: {', '.join(dict.fromkeys(missing))}.")
    lines += [f"Not made: {name}: {why}" for name, why in report["not_made"].items()]
    return lines


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page."""
    parts = ["# Ablations", *_introduction(report)]
    for table in build_tables(report):
        lines = [table.header, tuple("---" for _ in table.header), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts += [f"## {table.title}", body]
    parts += ["## In sentences", report["rule"], "\n".join(f"- {line}" for line in sentences(report))]
    return "\n\n".join(parts) + "\n"


def web_page(report: Mapping[str, Any]) -> str:
    """The report as HTML."""
    text = html.escape
    parts = [f"<h1>Ablations</h1>{''.join(f'<p>{text(line)}</p>' for line in _introduction(report))}"]
    for table in build_tables(report):
        head = "".join(f"<th>{text(cell)}</th>" for cell in table.header)
        body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
        parts.append(f"<h2>{text(table.title)}</h2><table><tr>{head}</tr>{body}</table>")
    listed = "".join(f"<li>{text(line)}</li>" for line in sentences(report))
    parts.append(f"<h2>In sentences</h2><p>{text(report['rule'])}</p><ul>{listed}</ul>")
    style = "body{font:15px sans-serif}table{border-collapse:collapse}td,th{border:1px solid #999;padding:3px 8px}"
    return f'<!doctype html><meta charset="utf-8"><title>Ablations</title><style>{style}</style>{"".join(parts)}\n'


def _values(seeds: Mapping[int, Mapping[str, Any]], metric: str) -> list[float]:
    return [found["figures"][metric] for found in seeds.values() if found["figures"].get(metric) is not None]


def _plain(found: Interval) -> dict[str, float | int | None]:
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(found).items()}


def _shown(found: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    if found is None:
        return ""
    form = "+.3f" if sign else ".3f"
    text = format(found["mean"], form)
    return text if found["low"] is None else f"{text} [{found['low']:{form}}, {found['high']:{form}}]"
