"""The report of a listening test as Markdown, its table in the shape of the paper's table 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sounding.utils.messages import printable

from .plan import PREFERENCE, SCALES

QUOTED = {  # table 1 of the paper
    "Ground Truth": ("4.12 ± 0.06", "4.02 ± 0.05", "4.06 ± 0.07", "/"),
    "Ours": ("3.31 ± 0.04", "3.62 ± 0.05", "3.48 ± 0.04", "3.74 ± 0.07"),
}


def as_markdown(figures: dict[str, Any]) -> str:
    """The figures of `report.make_report` as a page."""
    parts = ["# Listening test", _said_first(figures)]
    parts += _rated(figures) if "systems" in figures else _compared(figures)
    parts += ["## Tests", _tests(figures), "## Agreement", _agreement(figures), "## Controls", _controls(figures)]
    return "\n\n".join(parts) + "\n"


def _said_first(figures: dict[str, Any]) -> str:
    said = (
        f"{figures['raters']} raters rated {figures['rated']} samples, with a median of "
        f"{figures['median_seconds']:.0f} s per sample ({figures['settings']['minimum_seconds']:g} s were the least)."
    )
    return said + (" Raters who failed the controls are left out." if figures["failed_raters_left_out"] else "")


def _rated(figures: dict[str, Any]) -> list[str]:
    systems, ours = figures["systems"], figures["ours"]
    rows, wide = [], []
    best = {s: max(own[s]["value"] for own in systems.values() if s in own) for s in SCALES if _any_has(systems, s)}
    for system in sorted(systems, key=lambda name: (name == ours, name)):
        row, wider = [cell(system)], [cell(system)]
        for scale in SCALES:
            found = systems[system].get(scale)
            if found is None:
                row.append("/")
                wider.append("/")
                continue
            half = "" if found["low"] is None else f" ± {found['value'] - found['low']:.2f}"
            text = f"{found['value']:.2f}{half}"
            row.append(f"**{text}**" if found["value"] == best[scale] else text)
            wider.append(f"{bounds(found['crossed_low'], found['crossed_high'])} ({found['count']})")
        rows.append(row)
        wide.append(wider)
    quoted = [[f"*{name} (the paper's, quoted)*", *values] for name, values in QUOTED.items()]
    head = ["Method", *(f"{scale} (↑)" for scale in SCALES)]
    return [
        table(head, rows + quoted),
        "Mean ± half the 95 % interval over single ratings. Quoted figures are of other sounds and other raters.",
        "95 % intervals for other raters and other samples (both resampled), and the number of ratings:",
        table(["Method", *SCALES], wide),
    ]


def _any_has(systems: dict[str, Any], scale: str) -> bool:
    return any(scale in own for own in systems.values())


def _compared(figures: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{cell(each['system'])} or {cell(each['other'])}",
            f"{each['share']:.2f}",
            bounds(each["crossed_low"], each["crossed_high"]),
            f"{each['preferred']} / {each['no_difference']} / {each['other_preferred']}",
        ]
        for each in figures["preferences"]
    ]
    head = ["Pair", "the first preferred", "95 % interval", "first / no difference / second"]
    return [
        table(head, rows),
        "No difference counts as half. Intervals are for other raters and other samples (both resampled).",
    ]


def _tests(figures: dict[str, Any]) -> str:
    rows = []
    for each in figures["tests"]:
        name = "" if each["scale"] == PREFERENCE else f"{each['scale']}: "
        row = [
            f"{name}{cell(each['system'])} - {cell(each['other'])}",
            number(each["samples"]["difference"], "+.2f"),
        ]
        for over in ("samples", "raters"):
            test = each[over]
            row.append("" if test["t"] is None else f"t({test['df']}) = {test['t']:.2f}")
            row.append(p_value(test["p_holm"]))
        rows.append(row)
    if not rows:
        return "There is one system alone, so nothing is compared."
    said = (
        "Paired t-tests, two-sided, of samples' means and of raters' means; p after Holm's correction among all rows. "
        "What holds for other samples and for other raters is below the level in both."
    )
    head = ["", "difference", "over samples", "p", "over raters", "p"]
    return f"{said}\n\n{table(head, rows)}"


def _agreement(figures: dict[str, Any]) -> str:
    rows = []
    for scale, found in figures["agreement"].items():
        alpha = found["alpha"]
        rows.append(
            [
                scale,
                number(found["kappa"]["mean"]),
                number(found["quadratic_kappa"]["mean"]),
                str(found["kappa"]["pairs"]),
                f"{number(alpha['value'])} {bounds(alpha['low'], alpha['high'])}",
            ]
        )
    metric = next(iter(figures["agreement"].values()))["alpha"]["metric"]
    said = (
        f"Cohen's kappa is the mean over pairs of raters; Krippendorff's alpha ({metric}) is of all raters, its "
        "95 % interval by resampled samples. Controls take no part. The paper has a kappa of 0.78, and does not say "
        "how it was weighted."
    )
    head = ["", "kappa", "kappa, quadratic weights", "pairs", "alpha"]
    return f"{table(head, rows)}\n\n{said}"


def _controls(figures: dict[str, Any]) -> str:
    controls = figures["controls"]
    failed = [each for each in controls if each["passed"] is False]
    passed = sum(each["passed"] is True for each in controls)
    said = f"{passed} raters passed the noise-only controls, {len(failed)} failed"
    said += f", {len(controls) - passed - len(failed)} have rated none."
    if not failed:
        return said
    rows = [[str(each["rater"]), cell(each["name"]), f"{each['mean']:.2f}", str(each["answers"])] for each in failed]
    what = "mean of controls" if "systems" in figures else "sound preferred to noise"
    return f"{said}\n\n{table(['Rater', 'name', what, 'answers'], rows)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells below a head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str, limit: int = 80) -> str:
    """A name in a table, which it must not break."""
    return printable(text, limit).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else format(value, form)


def bounds(low: float | None, high: float | None) -> str:
    """An interval, or nothing where there is none."""
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def p_value(value: float | None) -> str:
    """A p-value to three places."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
