"""Which samples a rater gets, in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import numpy as np

from sounding.utils.fields import Checked, Range

from .samples import CONTROL, Item

MOST_TRIALS = 2000  # of one rater
SCALES = {
    "OVL": "Overall quality of the sound",
    "RET": "Relevance to the text",
    "REI": "Relevance to the image",
    "REO": "Relevance to the selected object",
}
PREFERENCE = "preference"


@dataclass(frozen=True)
class Settings(Checked):
    """What stays the same for all raters of a study.

    `rate` asks for the scales of every sound, `prefer` which of two sounds fits better. With `against`, `prefer`
    compares this system with each other one, otherwise all pairs are compared.
    """

    protocol: Literal["rate", "prefer"] = "rate"
    minimum_seconds: Annotated[float, Range(0, 3600)] = 90.0
    controls: Annotated[int, Range(0, 100)] = 5
    items_per_rater: Annotated[int, Range(0, 2000)] = 0  # 0: all
    seed: Annotated[int, Range(0, 2**31)] = 0
    against: str = ""


@dataclass(frozen=True)
class Asked:
    """One sound to rate, or two to compare (`other` is the second; "" where one is rated)."""

    item: str
    system: str
    other: str = ""


def scales_of(item: Item, protocol: str) -> tuple[str, ...]:
    """What has to be answered: REO only where an object is selected."""
    if protocol == "prefer":
        return (PREFERENCE,)
    return tuple(scale for scale in SCALES if scale != "REO" or item.mask is not None)


def control_items(items: list[Item], settings: Settings) -> list[str]:
    """Names of the items whose image is also shown with noise alone, at most all; the same for all raters."""
    rng = np.random.default_rng(settings.seed)
    return [items[index].name for index in rng.permutation(len(items))[: settings.controls]]


def draw(items: list[Item], settings: Settings, rater: int, used: Counter[str]) -> list[Asked]:
    """A rater's samples in an order of the rater's own.

    Args:
        items: all of the study.
        settings: the study's.
        rater: number; with the study's seed it decides the order.
        used: how many raters have each item already; those that fewest have are taken first.

    Raises:
        ValueError: nothing to compare, or more than `MOST_TRIALS`.
    """
    rng = np.random.default_rng([settings.seed, rater])
    shuffled = [items[index] for index in rng.permutation(len(items))]
    if settings.items_per_rater:
        shuffled = sorted(shuffled, key=lambda item: used[item.name])[: settings.items_per_rater]
    noise = set(control_items(items, settings))
    asked: list[Asked] = []
    for item in shuffled:
        asked += _pairs(item, settings) if settings.protocol == "prefer" else [Asked(item.name, s) for s in item.sounds]
    for item in items:
        if item.name in noise:
            first = next(iter(item.sounds))
            asked.append(
                Asked(item.name, first, CONTROL) if settings.protocol == "prefer" else Asked(item.name, CONTROL)
            )
    if not any(CONTROL not in (each.system, each.other) for each in asked):
        raise ValueError("No sample has sounds of two systems to compare; add some, or use the protocol `rate`.")
    if len(asked) > MOST_TRIALS:
        raise ValueError(
            f"A rater would have {len(asked)} samples, but at most {MOST_TRIALS} are expected; set --items-per-rater."
        )
    ordered = [asked[index] for index in rng.permutation(len(asked))]
    if settings.protocol == "prefer":  # each system comes first about as often as second
        sides = rng.integers(0, 2, len(ordered))
        ordered = [Asked(a.item, a.other, a.system) if side else a for a, side in zip(ordered, sides, strict=True)]
    return ordered


def _pairs(item: Item, settings: Settings) -> list[Asked]:
    pairs = combinations(item.sounds, 2)
    return [Asked(item.name, *pair) for pair in pairs if not settings.against or settings.against in pair]
