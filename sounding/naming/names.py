"""From the probabilities of labels to one honest name: specific where it is sure, general where it is not, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Named:
    """What one mask shows."""

    name: str  # the most specific name that is probable enough, or `UNKNOWN`
    probability: float  # of that name, 0..1; of the likeliest one where it is unknown
    top: tuple[tuple[str, float], ...]  # the likeliest names with their own probabilities, the likeliest first
    kinds: tuple[tuple[str, float], ...] = ()  # likewise, of kinds of `name` alone; empty where it is unknown

    @property
    def known(self) -> bool:
        """Whether any name is probable enough."""
        return self.name != UNKNOWN

    @property
    def candidates(self) -> tuple[tuple[str, float], ...]:
        """The likeliest specific names: kinds of the one that is given, or all."""
        return self.kinds or self.top


@dataclass(frozen=True)
class Labels:
    """Names in a forest: a "robin" is a "bird", which is an "animal".

    Attributes:
        names: all of them, specific and general.
        parents: the index of each name's more general one, -1 where there is none.
    """

    names: Sequence[str]
    parents: Sequence[int]

    @cached_property
    def ancestors(self) -> list[list[int]]:
        """Of each name, itself and all more general ones, the most specific first."""
        lines = []
        for name in range(len(self.names)):
            line = [name]
            while (above := self.parents[line[-1]]) >= 0:
                line.append(above)
            lines.append(line)
        return lines

    def with_general(self, probabilities: Tensor) -> Tensor:
        """Each name's own probability and that of all names below it: [masks, names] -> the same."""
        names, general = self._pairs
        return probabilities.index_add(1, general, probabilities[:, names])

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Indices of names, and for each of them one of its more general ones."""
        pairs = [(name, general) for name, (_, *above) in enumerate(self.ancestors) for general in above]
        names, general = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(dim=1)
        return names, general


def named(probabilities: Tensor, labels: Labels, threshold: float, top: int) -> list[Named]:
    """The most specific name that reaches a probability, for each row.

    Args:
        probabilities: [masks, names]; a row's sum may lie below 1, and the rest is the probability of none of them.
        labels: the names.
        threshold: the least probability of a name that is given; of several that reach it, the most specific one is.
        top: how many of the likeliest names are listed.

    Raises:
        ValueError: `top` is below 1.
    """
    if top < 1:
        raise ValueError(f"top is {top}, but 1 or more is expected.")
    probabilities = probabilities.float().cpu()
    found = probabilities.topk(min(top, len(labels.names)), dim=-1)
    results = []
    for row, own, values, indices in zip(labels.with_general(probabilities), probabilities, *found, strict=True):
        likeliest = tuple((labels.names[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
        sure = [i for i, p in enumerate(row.tolist()) if p >= threshold]
        best = max(sure, key=lambda i: (len(labels.ancestors[i]), float(row[i])), default=None)
        if best is None:
            results.append(Named(UNKNOWN, likeliest[0][1], likeliest))
            continue
        below = [i for i, line in enumerate(labels.ancestors) if best in line and own[i] > 0]
        below = sorted(below, key=lambda i: -float(own[i]))[:top]
        kinds = tuple((labels.names[i], float(own[i])) for i in below)
        results.append(Named(labels.names[best], min(float(row[best]), 1.0), likeliest, kinds))
    return results
