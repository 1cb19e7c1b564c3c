"""Training and test set (appendix B.2): no video in both, the test set even over the largest categories."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable

from ..cluster.rows import Row
from .ontology import Ontology
from .rows import seconds_of
from .settings import SplitSettings

TRAIN, TEST = "train", "test"
MOST_OF_CATEGORY = 0.5  # share of a category's hours that may go into the test set


def category_of(row: Row, ontology: Ontology) -> str:
    """The category of a clip's first label that has one: the ontology's id, or the label where it is in no ontology."""
    for code in row["codes"]:
        if code in ontology.categories:
            return ontology.categories[code]
    return row["labels"][0] if row["labels"] else ""


def hours(rows: Iterable[Row]) -> float:
    """How long they are together."""
    return sum(map(seconds_of, rows)) / 3600


def split(rows: Collection[Row], ontology: Ontology, settings: SplitSettings) -> list[tuple[str, str]]:
    """Category (a name) and subset of each kept clip.

    A video is of the category of its first clip. Videos are drawn in an order that follows from their ids and the seed
    alone, so a clip that is added or dropped later moves few others.
    """
    clips: list[tuple[str, str]] = []  # category and video
    length_of: dict[str, float] = defaultdict(float)  # of a video, in seconds
    category_of_video: dict[str, str] = {}
    hours_of: dict[str, float] = defaultdict(float)
    for row in rows:
        video, category = row["video"], category_of(row, ontology)
        clips.append((category, video))
        length_of[video] += seconds_of(row)
        category_of_video.setdefault(video, category)
    by_category: dict[str, list[str]] = defaultdict(list)
    for video, category in category_of_video.items():
        by_category[category].append(video)
        hours_of[category] += length_of[video] / 3600
    largest = sorted((c for c in by_category if c), key=lambda c: (-hours_of[c], c))[: settings.count]
    chosen = list(settings.categories) or largest
    tested: set[str] = set()
    for category in chosen:
        quota = min(settings.test_hours / len(chosen), MOST_OF_CATEGORY * hours_of[category])
        taken = 0.0
        for video in sorted(by_category[category], key=lambda name: _drawn(name, settings.seed)):
            more = length_of[video] / 3600
            if taken + more > quota + 1e-9:
                continue
            tested.add(video)
            taken += more
    return [(ontology.names.get(category, category), TEST if video in tested else TRAIN) for category, video in clips]


def _drawn(video: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {video}".encode()).hexdigest()
