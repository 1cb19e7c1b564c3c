"""Training and test set: by videos, even over categories, and steady."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from training.cluster.rows import Row
from training.refine.ontology import EMPTY, Ontology, read_ontology
from training.refine.settings import SplitSettings
from training.refine.split import hours, split

LABELS = {"dog": 60, "rain": 30, "cat": 20, "owl": 4}  # videos of two clips of 90 s each


def rows_of(labels: dict[str, int], codes: dict[str, str] | None = None) -> list[Row]:
    return [
        {
            "id": f"{label}{video}_{clip}",
            "video": f"{label}{video}",
            "labels": [label],
            "codes": [(codes or {}).get(label, "")],
            "sound_seconds": 90.0,
            "seconds": 90.0,
        }
        for label, videos in labels.items()
        for video in range(videos)
        for clip in range(2)
    ]


def test_hours_of_one_hour() -> None:
    assert hours(rows_of({"dog": 20})) == 1.0


def test_the_test_set_is_even_over_the_largest_categories_and_shares_no_video() -> None:
    rows = rows_of(LABELS)
    placed = split(rows, EMPTY, SplitSettings(test_hours=1.2, count=3))
    tested: dict[str, float] = defaultdict(float)
    sides: dict[str, set[str]] = defaultdict(set)
    for row, (category, subset) in zip(rows, placed, strict=True):
        assert category == row["labels"][0]
        sides[row["video"]].add(subset)
        if subset == "test":
            tested[category] += hours([row])
    assert all(len(subsets) == 1 for subsets in sides.values())
    assert {name: round(found, 6) for name, found in tested.items()} == {"dog": 0.4, "rain": 0.4, "cat": 0.4}


def test_a_small_category_keeps_half_for_training() -> None:
    rows = rows_of({"dog": 20, "owl": 4})
    placed = split(rows, EMPTY, SplitSettings(test_hours=100, count=2))
    assert sum(subset == "test" for category, subset in placed if category == "owl") == 4  # of 8 clips


def test_chosen_categories_are_ids_of_the_ontology(material: Path) -> None:
    ontology: Ontology = read_ontology(material / "ontology.json")
    rows = rows_of({"dog": 10, "rain": 10}, {"dog": "/m/bark", "rain": "/m/rain"})
    placed = split(rows, ontology, SplitSettings(test_hours=0.2, categories=("/m/weather",)))
    assert {category for category, _ in placed} == {"Animal", "Weather"}
    assert {category for category, subset in placed if subset == "test"} == {"Weather"}


def test_a_clip_more_moves_few_others_and_a_seed_draws_others() -> None:
    rows = rows_of(LABELS)
    settings = SplitSettings(test_hours=1.2, count=3)
    before = dict(zip([row["id"] for row in rows], split(rows, EMPTY, settings), strict=True))
    more = rows_of({**LABELS, "dog": LABELS["dog"] + 1})
    after = dict(zip([row["id"] for row in more], split(more, EMPTY, settings), strict=True))
    assert sum(before[name] != after[name] for name in before) <= 4
    other = split(rows, EMPTY, SplitSettings(test_hours=1.2, count=3, seed=1))
    assert other != list(before.values())
    assert split(list(reversed(rows)), EMPTY, settings)[::-1] == list(before.values())  # in any order of the lists
