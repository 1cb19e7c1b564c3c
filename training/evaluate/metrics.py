"""Metrics of a system's sounds, alone or beside the reference's, each with its value per resample of the items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from . import scores
from .folders import Side
from .frechet import frechet_distances
from .intervals import Array, Figure, draw_weights, figure, weighted_means
from .kernel import kernel_distances
from .store import Rows, Store

NO_CLASSES = "The model has no classes; give a classifier, such as PANNs' CNN14 (`sounding fetch panns`)."
Labelled = Mapping[str, Sequence[int]]  # an item's class numbers


@dataclass
class Resampled:
    """Values of each metric, the first of which is the figure; sample counts; why other metrics have none."""

    weights: Array  # [R, N], how often each item counts
    values: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, compute: Callable[[], Array]) -> None:
        """Add a metric's values [R], or the reason why there are none."""
        try:
            values = compute()
            self.values[name], self.counts[name] = values, self.weights.shape[1]
        except ValueError as error:
            self.not_computed[name] = str(error)

    def mean(self, name: str, compute: Callable[[], Array]) -> None:
        """Add the mean of values per item [N]; NaN for items without one."""
        count = 0

        def means() -> Array:
            nonlocal count
            values = compute()
            count = int(np.isfinite(values).sum())
            if not count:
                raise ValueError("No sound has a value.")
            return weighted_means(values, self.weights)

        self.put(name, means)
        if name in self.counts:
            self.counts[name] = count

    def figures(self) -> dict[str, Figure]:
        """With intervals."""
        return {name: figure(values, self.counts[name]) for name, values in self.values.items()}

    def minus(self, other: Resampled) -> dict[str, Figure]:
        """Differences from metrics of the same items and weights, with paired intervals."""
        return {
            name: figure(values - other.values[name], self.counts[name])
            for name, values in self.values.items()
            if name in other.values
        }


def weights_of(names: Sequence[str], resamples: int) -> Array:
    """How often each item counts, per resample: [1 + resamples, N]."""
    return draw_weights(len(names), resamples) if names else np.ones((1, 0), np.float32)


def lazy(values: Array, store: Store, names: Sequence[str]) -> Array:
    """Rows of a store's embeddings or logits in the order of names, read when they are asked for."""
    return cast(Array, Rows(values, store.rows(names)))


def windows_of(store: Store, names: Sequence[str]) -> Array:
    """Embeddings of every window [N * windows, D] of names in their order, read when they are asked for."""
    count = store.windows
    rows = store.rows(names)[:, None] * count + np.arange(count)
    each = store.embeddings.reshape(len(store.names) * count, store.embeddings.shape[1] // count)
    return cast(Array, Rows(each, rows.ravel()))


def confidences(side: Side, names: Sequence[str], classes: Sequence[str], labels: Labelled | None) -> Array:
    """ACC per item: [N], see `scores.label_confidences`.

    Raises:
        ValueError: there are no classes, or no labels.
    """
    _check_classes(classes)
    if labels is None:
        raise ValueError("There are no labels; give --labels.")
    left_out = [number for number, name in enumerate(classes) if name in scores.LEFT_OUT]
    logits = lazy(side.store.logits, side.store, names)
    return scores.label_confidences(logits, [labels.get(name, []) for name in names], left_out)


def resample_alone(
    side: Side, names: Sequence[str], weights: Array, classes: Sequence[str], labels: Labelled | None
) -> Resampled:
    """The metrics that need no reference, for each row of weights; what cannot be computed says why."""
    found = Resampled(weights)

    def inception(seed: int | None) -> Array:
        _check_classes(classes)
        return scores.inception_scores(lazy(side.store.logits, side.store, names), weights, shuffle_seed=seed)

    found.mean("acc", lambda: confidences(side, names, classes, labels))
    found.put("is", lambda: inception(scores.SHUFFLE_SEED))
    found.put("is_in_order", lambda: inception(None))
    return found


def resample_metrics(
    side: Side,
    reference: Side,
    names: Sequence[str],
    weights: Array,
    classes: Sequence[str],
    labels: Labelled | None,
) -> Resampled:
    """All metrics of the pairs `names` for each row of weights; what cannot be computed says why."""
    found = resample_alone(side, names, weights, classes, labels)
    made, real = (windows_of(one.store, names) for one in (side, reference))
    windows = side.store.windows
    made_logits, real_logits = (lazy(one.store.logits, one.store, names) for one in (side, reference))

    def divergences(convention: str) -> Array:
        _check_classes(classes)
        return scores.kl_divergences(made_logits, real_logits, convention)

    def distances() -> Array:  # weights of all windows for one resample at a time, as all would fill the memory
        each = (np.repeat(row[None], windows, axis=1) for row in weights)
        return np.concatenate([frechet_distances(made, real, row) for row in each])

    found.put("fad", distances)
    for convention in scores.KL_CONVENTIONS:
        found.mean(f"kl_{convention}", lambda convention=convention: divergences(convention))  # type: ignore[misc]
    found.put("kad", lambda: kernel_distances(made, real, np.repeat(weights, windows, axis=1)))
    found.mean("cosine", lambda: scores.cosines(made, real).reshape(-1, windows).mean(axis=1))
    return found


def _check_classes(classes: Sequence[str]) -> None:
    if not classes:
        raise ValueError(NO_CLASSES)
