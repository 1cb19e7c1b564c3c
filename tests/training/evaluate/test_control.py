"""Control figures against values that were worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.evaluate.control import chances, controls, difference, share
from training.evaluate.folders import Side
from training.evaluate.report import measure
from training.evaluate.store import Finding, Store

CLASSES = ("dog", "cat", "owl", "hen")
LOGITS = {
    "a": [3.0, 2.0, 1.0, 0.0],  # dog before cat: met
    "b": [1.0, 2.0, 3.0, 0.0],  # dog before cat: not met, though owl is the likeliest
    "c": [1.0, 2.0, 3.0, 0.0],  # owl before dog and cat: met
    "d": [2.0, 1.0, 0.0, 2.0],  # dog before hen: equal, so not met
    "e": [0.0, 0.0, 0.0, 9.0],  # a background without a hen: met
    "f": [0.0, 9.0, 0.0, 0.0],  # a background with a cat: not met
    "g": [9.0, 0.0, 0.0, 0.0],  # alone in its image: takes no part
    "h": [9.0, 0.0, 0.0, 0.0],  # a sound that could not be heard: takes no part
}
OWN = {"a": [0], "b": [0], "c": [2], "d": [0], "e": [], "f": [], "g": [0], "h": [0]}
OTHERS = {"a": [1], "b": [1], "c": [0, 1], "d": [3], "e": [0, 1], "f": [1, 2], "h": [1]}


def made_side(name: str, folder: Path, logits: dict[str, list[float]], heard: set[str]) -> Side:
    store = Store.open(folder / name, sorted(logits), {}, 2, len(CLASSES))
    for row, item in enumerate(store.names):
        if item in heard:
            values = np.array([logits[item]], np.float32)
            store.put([row], values[:, :2], values, [Finding(0)])
    return Side(name, folder, store)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return made_side("ours", tmp_path, LOGITS, LOGITS.keys() - {"h"})


def test_shares_and_chances(side: Side, tmp_path: Path) -> None:
    found = controls(side, OWN, OTHERS)
    assert found["control"] == {"a": True, "b": False, "c": True, "d": False}
    assert found["control_two_objects"] == {"a": True, "b": False, "d": False}
    assert found["control_background"] == {"e": True, "f": False}
    assert chances(found, OTHERS, len(CLASSES)) == pytest.approx(
        {"control": (3 / 2 + 1 / 3) / 4, "control_two_objects": 0.5, "control_background": 0.5}
    )
    met = share(found["control"])
    assert (met.value, met.count) == (0.5, 4)
    # Wilson: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)
    z = 1.959963984540054
    middle, half = 0.5 + z**2 / 8, z * np.sqrt(0.25 / 4 + z**2 / 64)
    assert (met.low, met.high) == pytest.approx(((middle - half) / (1 + z**2 / 4), (middle + half) / (1 + z**2 / 4)))


def test_differences_are_paired(side: Side, tmp_path: Path) -> None:
    found = controls(side, OWN, OTHERS)
    assert difference(found["control"], found["control"], 20).high == 0
    other = {"a": False, "b": False, "c": True}
    met = difference(found["control"], other, 200)
    assert (met.value, met.count) == (pytest.approx(1 / 3), 3)
    assert met.low < met.value < met.high


def test_controls_in_a_report(side: Side, tmp_path: Path) -> None:
    real = made_side("reference", tmp_path, {name: LOGITS[name] for name in "abcdgh"}, set("abcdgh"))
    worse = {name: [0.0, 5.0, 0.0, 0.0] for name in LOGITS}
    worst = made_side("worst", tmp_path, worse, set(LOGITS))
    report = measure([side, worst], real, CLASSES, OWN, others=OTHERS, resamples=10)
    ours = report["systems"][0]
    assert ours["figures"]["control"]["value"] == 0.5
    assert ours["figures"]["control_background"] == pytest.approx(
        {"value": 0.5, "low": 0.0945, "high": 0.9055, "count": 2}, abs=1e-4
    )
    assert ours["chance"]["control_two_objects"] == 0.5
    assert "without a reference" not in ours["sounds"]  # backgrounds have none
    assert report["differences"][0]["figures"]["control"]["value"] == pytest.approx(0.5 - 0.0)
    assert report["reference"]["figures"]["control"]["value"] == pytest.approx(3 / 5)  # a, c and h
    without = measure([side], real, CLASSES, OWN, resamples=0)["systems"][0]
    assert "column others" in without["not_computed"]["control"]
