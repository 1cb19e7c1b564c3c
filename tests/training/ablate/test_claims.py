"""The rule that turns figures into verdicts, on made-up figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from training.starter.ablate.claims import (
    Claim,
    Interval,
    build_claims,
    interval,
    judge_alike,
    judge_better,
    judge_claim,
)
from training.starter.ablate.report import build_report, build_tables, markdown, sentences, web_page
from training.starter.ablate.rows import ALL_TRAININGS, TRAININGS, Cell, build_rows, chosen_rows
from training.starter.ablate.run import FOLDER

FIRST, SECOND = Cell("ours"), Cell("additive")
SETTINGS = {"seeds": (1, 2, 3), "items": 48, "item_stream": 12, "control_items": 40}


def figures(first: list[float], second: list[float], metric: str = "acc") -> dict[str, dict[int, dict[str, float]]]:
    return {
        cell.name: {seed: {metric: value} for seed, value in enumerate(values)}
        for cell, values in ((FIRST, first), (SECOND, second))
    }


def test_the_interval_is_students() -> None:
    values = [0.3, 0.5, 0.45]
    found = interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.seeds == 3
    assert math.isnan(interval([0.3]).low)


@pytest.mark.parametrize(
    ("first", "second", "metric", "verdict"),
    [
        ([0.80, 0.82, 0.81], [0.40, 0.43, 0.40], "acc", "holds"),
        ([0.40, 0.43, 0.40], [0.80, 0.82, 0.81], "acc", "does not hold"),
        ([0.80, 0.20, 0.50], [0.40, 0.43, 0.40], "acc", "undecided"),
        ([1.0, 1.1, 1.0], [9.0, 9.3, 9.1], "fad", "holds"),  # lower is better
        ([9.0, 9.3, 9.1], [1.0, 1.1, 1.0], "fad", "does not hold"),
        ([0.8], [0.4], "acc", "not measured"),
        ([], [0.4, 0.5], "acc", "not measured"),
    ],
)
def test_better(first: list[float], second: list[float], metric: str, verdict: str) -> None:
    claim = Claim("", "better", FIRST, SECOND)
    assert judge_claim(claim, figures(first, second, metric), metric)[0] == verdict


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0.800, 0.810, 0.790], [0.801, 0.812, 0.789], "holds"),
        ([0.60, 0.61, 0.60], [0.80, 0.82, 0.80], "does not hold"),
        ([0.70, 0.90, 0.80], [0.80, 0.80, 0.80], "undecided"),
    ],
)
def test_alike(first: list[float], second: list[float], verdict: str) -> None:
    claim = Claim("", "alike", FIRST, SECOND)
    assert judge_claim(claim, figures(first, second), "acc")[0] == verdict


def test_differences_are_those_of_equal_seeds() -> None:
    """Seeds that one of the two lacks take no part."""
    found = figures([0.5, 0.6, 0.9], [0.4, 0.5])
    verdict, difference = judge_claim(Claim("", "better", FIRST, SECOND), found, "acc")
    assert difference is not None
    assert (difference.seeds, difference.mean) == (2, pytest.approx(0.1))
    assert verdict == "holds"


def test_edges_of_intervals_decide() -> None:
    assert judge_better(Interval(1.0, 0.0, 2.0, 3)) == "undecided"
    assert judge_alike(Interval(0.0, -0.1, 0.1, 3), 0.1) == "undecided"
    assert judge_alike(Interval(0.0, -0.09, 0.09, 3), 0.1) == "holds"


def test_rows_and_claims_belong_together() -> None:
    rows = {row.name for row in build_rows()}
    for claim in build_claims():
        assert {claim.first.name, claim.second.name} <= rows
    assert {row.cell.training for row in build_rows()} == set(ALL_TRAININGS)
    assert all((FOLDER / f"{name}.yaml").is_file() for name in TRAININGS)
    cells = {row.cell for row in build_rows()}
    assert len({cell.name for cell in cells}) == len(cells)


def test_an_unknown_row_is_refused() -> None:
    assert {row.name for row in chosen_rows(["ours.text"])} == {"ours.text"}
    with pytest.raises(ValueError, match="no row 'theirs'; the rows are ours, "):
        chosen_rows(["theirs"])


def test_the_report_says_what_is_measured_and_what_is_missing() -> None:
    results = {
        "ours": {seed: {"figures": {"acc": 0.8 + seed / 100, "fad": 2.0}} for seed in (1, 2, 3)},
        "additive": {seed: {"figures": {"acc": 0.2, "fad": 9.0 + seed}} for seed in (1, 2)},
    }
    report = build_report(build_rows(), results, {"acc": 0.9}, SETTINGS, {"ours.grabcut, seed 1": "There is <none>."})
    json.dumps(report, allow_nan=False)
    row = next(row for row in report["rows"] if row["cell"] == "additive")
    assert row["missing_seeds"] == [3]
    assert row["quoted"]["fad"] == 15.747
    assert row["figures"]["acc"]["mean"] == pytest.approx(0.2)
    said = sentences(report)
    additive = next(line for line in said if "table 3, iii" in line)
    assert additive.startswith("Additive attention under masks is worse")
    assert "holds at this scale" in additive
    assert any("table 3, vi" in line and "is not measured" in line for line in said)
    variants = build_tables(report)[0].rows
    assert variants[0][1] == "0.820 [0.795, 0.845]"
    assert variants[1][-5:] == ("0.103", "15.747", "7.425", "1.343", "0.137")
    page, web = markdown(report), web_page(report)
    assert "Seeds are missing of: additive (1)" in page
    assert "There is &lt;none&gt;." in web
    assert page.count("0.820 [0.795, 0.845]") == web.count("0.820 [0.795, 0.845]") > 1
