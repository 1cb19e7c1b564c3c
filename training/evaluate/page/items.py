"""Which items the page shows, and what single items and classes look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import scores
from ..folders import Side, pairs
from ..intervals import Array, blocks
from ..metrics import Labelled, confidences, lazy

WORST, SHOWN = 20, 24


@dataclass(frozen=True)
class Scored:
    """A number per item, the higher the better, and what it is."""

    title: str
    names: list[str]
    values: Array

    def worst(self, count: int = WORST) -> list[tuple[str, float]]:
        """The lowest ones; items without a value are left out."""
        order = np.argsort(self.values, kind="stable")
        return [(self.names[at], float(self.values[at])) for at in order if np.isfinite(self.values[at])][:count]


def score_items(side: Side, reference: Side, classes: Sequence[str], labels: Labelled | None) -> Scored:
    """Items by the confidence at their labels; without labels by KL divergence, without classes by cosine."""
    names = pairs(side, reference)
    if not names:
        return Scored("There is no pair of sounds.", [], np.zeros(0))
    if classes and labels:
        values = confidences(side, names, classes, labels)
        if np.isfinite(values).any():
            return Scored("confidence at the item's labels (its share of ACC)", names, values)
    if classes:
        made, real = (lazy(one.store.logits, one.store, names) for one in (side, reference))
        values = -scores.kl_divergences(made, real, "av_benchmark")
        return Scored("minus the KL divergence from the reference", names, values)
    made, real = (lazy(one.store.embeddings, one.store, names) for one in (side, reference))
    return Scored("cosine to the reference", names, scores.cosines(made, real))


def choose_shown(sides: Sequence[Side], reference: Side, count: int = SHOWN) -> list[str]:
    """Items that all systems have (else those of the first), drawn once for all."""
    common = set(pairs(sides[0], reference)).intersection(*(pairs(side, reference) for side in sides[1:]))
    names = sorted(common) or pairs(sides[0], reference)
    drawn = np.random.default_rng(0).permutation(len(names))[:count]
    return [names[at] for at in sorted(drawn)]


def likeliest(side: Side, names: Sequence[str], classes: Sequence[str]) -> Iterator[int]:
    """The class that each item's sound is taken for, Speech and Music left out."""
    kept = np.array([number for number, name in enumerate(classes) if name not in scores.LEFT_OUT], int)
    logits = lazy(side.store.logits, side.store, names)
    for part in blocks(len(names)):
        yield from kept[np.asarray(logits[part])[:, kept].argmax(axis=1)].tolist()


@dataclass(frozen=True)
class ClassFigures:
    """Of the items with one label: how many, the mean confidence at their labels, the share taken for one of them."""

    count: int
    confidence: float
    top1: float


def by_class(side: Side, reference: Side, classes: Sequence[str], labels: Labelled | None) -> dict[str, ClassFigures]:
    """Figures of the pairs per label, in the order of the classes."""
    if not classes or not labels:
        return {}
    names = [name for name in pairs(side, reference) if labels.get(name)]
    if not names:
        return {}
    sums = np.zeros((len(classes), 3))
    values = confidences(side, names, classes, labels)
    for name, value, guess in zip(names, values, likeliest(side, names, classes), strict=True):
        if np.isfinite(value):
            sums[list(labels[name])] += (1, value, guess in labels[name])
    return {
        name: ClassFigures(int(count), float(confidence / count), float(top1 / count))
        for name, (count, confidence, top1) in zip(classes, sums, strict=True)
        if count and name not in scores.LEFT_OUT
    }
