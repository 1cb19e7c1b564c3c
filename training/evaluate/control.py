"""Does the selection decide what sounds? The selected object's class against those of the other objects in the image.

- `control`: share of items in which a class of the selected object has a higher logit than those of all other objects;
- `control_two_objects`: the same of images with two objects alone, where chance is a half;
- `control_background`: of items in which everything but the objects is selected, the share in which none of the objects
  is the likeliest class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from . import intervals
from .folders import Side
from .intervals import Array, Figure, figure, weighted_means
from .metrics import Labelled, weights_of

CONTROLS = ("control", "control_two_objects", "control_background")
ByItem = dict[str, dict[str, bool]]  # a control -> an item's name -> whether it is met


def controls(side: Side, labels: Labelled, others: Labelled) -> ByItem:
    """Which items meet each control; items without other objects, or without a sound, take no part."""
    found: ByItem = {name: {} for name in CONTROLS}
    names = sorted(name for name in side.usable() if others.get(name))
    for name, row in zip(names, side.store.rows(names), strict=True):
        logits = np.asarray(side.store.logits[row])
        rivals, own = list(others[name]), list(labels.get(name, ()))
        if not own:
            found["control_background"][name] = int(logits.argmax()) not in rivals
            continue
        found["control"][name] = bool(logits[own].max() > logits[rivals].max())
        if len(rivals) == 1:
            found["control_two_objects"][name] = found["control"][name]
    return found


def chances(found: ByItem, others: Labelled, classes: int) -> dict[str, float]:
    """What a guess at random would give."""
    each = {
        "control": lambda rivals: 1 / (1 + rivals),
        "control_two_objects": lambda rivals: 0.5,
        "control_background": lambda rivals: 1 - rivals / classes,
    }
    return {
        name: float(np.mean([each[name](len(others[item])) for item in items]))
        for name, items in found.items()
        if items
    }


def share(met: Mapping[str, bool]) -> Figure:
    """The share of items that meet a control, with Wilson's 95 % interval."""
    return intervals.share(sum(met.values()), len(met))


def difference(first: Mapping[str, bool], second: Mapping[str, bool], resamples: int) -> Figure:
    """Of two systems' shares over the items that both have, with a paired bootstrap interval."""
    names: Sequence[str] = sorted(first.keys() & second.keys())
    values: Array = np.array([float(first[name]) - float(second[name]) for name in names])
    return figure(weighted_means(values, weights_of(names, resamples)), len(names))
