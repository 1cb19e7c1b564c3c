"""The order of items, and loading them ahead of their step.

Whatever is random in an item follows from the run's seed and the item's number in the run alone, never from the process
that draws it: a resumed run, and one on more processes, sees the same items with the same noise.
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
Draw = tuple[int, int]  # (number of the item in the run, index in the training set)
SPREAD = "spread"  # key of an item: a number of 0 to 1, spread evenly over a step's batch, see `spread_of`


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


def nth_draw(number: int, count: int, seed: int) -> Draw:
    """The run's item `number` out of a set of `count`: every epoch is a permutation of its own."""
    return number, int(_shuffled(count, seed, number // count)[number % count])


def spread_of(number: int, batch: int, seed: int) -> float:
    """A low-discrepancy number of 0 to 1 for the run's item `number`: a step's items are evenly spaced, from an offset
    that is drawn once per step. Neither processes nor micro-batches change it.
    """
    step, position = divmod(number, batch)
    return float((np.random.default_rng([seed, 2, step]).random() + position / batch) % 1.0)


class Order(Sampler[list[Draw]]):
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

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch // (self.accumulate * self.processes)
        for step in range(self.first, self.steps):
            for micro in range(self.accumulate):
                start = step * self.batch + (micro * self.processes + self.rank) * share
                yield [nth_draw(start + i, self.count, self.seed) for i in range(share)]


class _Draws(Dataset[Item]):
    """Items by their number in the run, each with a random stream of its own."""

    def __init__(self, items: Items, seed: int, batch: int):
        self.items, self.seed, self.batch = items, seed, batch

    def __getitem__(self, draw: Draw) -> Item:
        number, index = draw
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
        _Draws(items, order.seed, order.batch),
        batch_sampler=order,  # type: ignore[arg-type]  # draws instead of plain indices
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=settle_worker if workers else None,
    )


def settle_worker(_: int) -> None:
    """One thread per worker, since workers share the machine with each other. SIGTERM reaches all processes of a job,
    and the main process ends its workers when its step is done.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
