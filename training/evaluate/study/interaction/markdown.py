"""The report of an interaction study as Markdown, its table in the shape of the paper's table 2."""

from __future__ import annotations

from typing import Any

from ..markdown import bounds, cell, number, p_value, table
from .figures import MAIN

QUOTED = {  # table 2 of the paper: minutes, attempts, satisfaction
    "AudioLDM 1": ("7.34", "3.20", "2.00 ± 0.88"),
    "AudioLDM 2": ("5.10", "2.40", "2.80 ± 1.04"),
    "FoleyCrafter": ("3.00", "2.80", "3.00 ± 1.96"),
    "SSV2A": ("2.95", "1.80", "3.40 ± 1.42"),
    "Ours": ("2.67", "1.60", "3.60 ± 0.68"),
}
WORDS = {"minutes": "Time (↓)", "attempts": "Attempts (↓)", "satisfaction": "Satisfaction (↑)"}
BEST = {"minutes": min, "attempts": min, "satisfaction": max}
DETAILS = {
    "first_sound": "first sound after",
    "waiting": "waiting for runs",
    "hands_on": "without waiting",
    "clicks": "points and boxes",
    "corrections": "corrections",
    "plays": "plays",
}


def as_markdown(figures: dict[str, Any]) -> str:
    """The figures of `figures.figures_of` as a page."""
    parts = [
        "# Interaction study",
        f"{figures['participants']} participants, {figures['tasks']} tasks, {figures['trials']} rated trials of the "
        f"study {cell(figures['study'])}.",
        _main(figures),
        "Means over participants ± half the 95 % interval (Student's, over participants' means); time in minutes from "
        "the start of a task until the participant was done. Quoted figures are of other people, tasks and machines.",
        "## What people did",
        _details(figures),
        "Means per trial; times in minutes. Times of tasks that were given up count as they are.",
        "## Tests",
        _tests(figures),
    ]
    if figures["left_out"]:
        parts += ["## Left out, or worth a look", "\n".join(f"- {cell(each, 300)}" for each in figures["left_out"])]
    return "\n\n".join(parts) + "\n"


def _in_order(figures: dict[str, Any]) -> list[str]:
    ours = figures["ours"]
    return sorted(figures["conditions"], key=lambda name: (name == ours, name))


def _main(figures: dict[str, Any]) -> str:
    conditions = figures["conditions"]
    best = {measure: BEST[measure](own[measure]["value"] for own in conditions.values()) for measure in MAIN}
    rows = []
    for name in _in_order(figures):
        row = [cell(name)]
        for measure in MAIN:
            found = conditions[name][measure]
            half = "" if found["low"] is None else f" ± {found['value'] - found['low']:.2f}"
            text = f"{found['value']:.2f}{half}"
            row.append(f"**{text}**" if found["value"] == best[measure] and len(conditions) > 1 else text)
        rows.append(row)
    quoted = [[f"*{name} (the paper's, quoted)*", *values] for name, values in QUOTED.items()]
    return table(["Method", *WORDS.values()], rows + quoted)


def _details(figures: dict[str, Any]) -> str:
    rows = []
    for name in _in_order(figures):
        own = figures["conditions"][name]
        row = [cell(name), f"{own['trials']}", f"{own['given_up']}", f"{own['unmade']}"]
        rows.append(row + [number(own[measure]["value"]) for measure in DETAILS])
    head = ["Method", "trials", "given up", "stopped or failed runs", *DETAILS.values()]
    wide = [
        [
            cell(name),
            *(
                bounds(own[measure]["crossed_low"], own[measure]["crossed_high"])
                for own in [figures["conditions"][name]]
                for measure in MAIN
            ),
        ]
        for name in _in_order(figures)
    ]
    if figures["tasks"] < 2 or figures["participants"] < 2:
        return table(head, rows)
    said = "95 % intervals for other participants and other tasks (both resampled):"
    return f"{table(head, rows)}\n\n{said}\n\n{table(['Method', *WORDS.values()], wide)}"


def _tests(figures: dict[str, Any]) -> str:
    rows = []
    for each in figures["tests"]:
        row = [f"{WORDS[each['scale']].split(' ')[0]}: {cell(each['system'])} - {cell(each['other'])}"]
        row.append(number(each["participants"]["difference"], "+.2f"))
        for over in ("participants", "tasks"):
            test = each[over]
            row.append("" if test["t"] is None else f"t({test['df']}) = {test['t']:.2f}")
            row.append(p_value(test["p_holm"]))
        rows.append([*row, p_value(each["wilcoxon"]["p_holm"])])
    if not rows:
        return "There is one condition alone, so nothing is compared."
    said = (
        "Of what the same participants did of the same tasks under both conditions: paired t-tests, two-sided, of "
        "participants' means and of tasks' means, and Wilcoxon's signed-rank test of participants' means; p after "
        "Holm's correction among all rows."
    )
    head = ["", "difference", "over participants", "p", "over tasks", "p", "p (Wilcoxon)"]
    return f"{said}\n\n{table(head, rows)}"
