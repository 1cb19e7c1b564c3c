"""Which item every step sees, and reading items ahead of the step.

Every draw of an item follows from the run's seed and the item's number in the run alone, never from the
process that draws it: a resumed run, and one on more processes, sees the same items with the same noise.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

Item = dict[str, Any]
Place = tuple[int, int]  # (number of the item in the run, index in the training set)
SPREAD = "spread"  # key of an item: where it lies in its step, see `spread_of`


class Items(Protocol):
    """A training set: `item(index, rng)` is a dictionary of tensors (equal shapes for every item) and strings."""

    def __len__(self) -> int: ...

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """One training item; whatever is random in it is drawn from `rng`."""
        ...


@runtime_checkable
class NamedItems(Items, Protocol):
    """A training set whose items are made of their own data alone, so that some can be held out for validation."""

    def ids(self) -> Sequence[str]:
        """Of all items, in their order.

        Raises:
            ValueError: with these settings, items are made of each other's data.
        """
        ...


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def place_of(number: int, count: int, seed: int) -> Place:
    """Where the run's item `number` lies in a set of `count`: every epoch is a permutation of its own."""
    return number, int(_shuffled(count, seed, number // count)[number % count])


def spread_of(number: int, batch: int, seed: int) -> float:
    """Where the run's item `number` lies in its step, 0 to 1: a step's items are evenly apart on that circle, turned by
    one draw a step. Neither processes nor micro-batches change it.
    """
    step, place = divmod(number, batch)
    return float((np.random.default_rng([seed, 2, step]).random() + place / batch) % 1.0)


class Order(Sampler[list[Place]]):
    """The batches of one process, from step `first` on: step `s` of the run has items `s * batch` to
    `(s + 1) * batch - 1`, split evenly over micro-batches and, within each, over processes.

    Raises:
        ValueError: the batch cannot be split so.
    """

    def __init__(
        self,
        count: int,
        *,
        batch: int,
        steps: int,
        first: int = 0,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        processes: int = 1,
    ):
        if count < 1:
            raise ValueError("The training set is empty; check the data folder.")
        if batch % (accumulate * processes):
            raise ValueError(
                f"loop.batch is {batch}, but a multiple of {accumulate * processes} (loop.accumulate {accumulate} x "
                f"{processes} processes) is expected."
            )
        self.count, self.batch, self.seed = count, batch, seed
        self.first, self.steps = first, steps
        self.accumulate, self.rank, self.processes = accumulate, rank, processes

    def __len__(self) -> int:
        return (self.steps - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[Place]]:
        share = self.batch // (self.accumulate * self.processes)
        for step in range(self.first, self.steps):
            for micro in range(self.accumulate):
                start = step * self.batch + (micro * self.processes + self.rank) * share
                yield [place_of(start + i, self.count, self.seed) for i in range(share)]


class _Drawn(Dataset[Item]):
    """Items by place, each with its own random stream."""

    def __init__(self, items: Items, seed: int, batch: int):
        self.items, self.seed, self.batch = items, seed, batch

    def __getitem__(self, place: Place) -> Item:
        number, index = place
        item = self.items.item(index, np.random.default_rng([self.seed, 0, number]))
        spread = torch.tensor(spread_of(number, self.batch, self.seed), dtype=torch.float32)
        return {"id": str(index), SPREAD: spread, **item}


def collate(items: list[Item]) -> Item:
    """Tensors stacked, strings and lists as lists."""
    batch: Item = {}
    for name, value in items[0].items():
        values = [item[name] for item in items]
        batch[name] = values if isinstance(value, (str, list)) else default_collate(values)
    return batch


def build_loader(items: Items, order: Order, *, workers: int = 0, pin: bool = False) -> DataLoader[Item]:
    """Batches in `order`, drawn by `workers` processes ahead of time."""
    return DataLoader(
        _Drawn(items, order.seed, order.batch),
        batch_sampler=order,  # type: ignore[arg-type]  # places instead of plain indices
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=settle_worker if workers else None,
    )


def settle_worker(_: int) -> None:
    """Workers share the machine with each other; their own threads would only get in the way. SIGTERM reaches all
    processes of a job: the first one ends its workers when its step is done.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
