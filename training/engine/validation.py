"""Validation: items that are never trained on, their loss with fixed noise, and the best weights by it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset

from sounding.utils.fields import Checked, Length, Range

from .loader import SPREAD, Item, Items, NamedItems, collate, settle_worker
from .objective import Objective
from .settings import FilePath, LoopConfig, Steps

log = logging.getLogger("training")


@dataclass(frozen=True)
class ValidationSettings(Checked):
    """The `validation` block of a recipe; without `every` there is none.

    Attributes:
        every: steps between validations; the last step is always followed by one.
        share: of the training set, held out by a hash of the items' ids.
        shards: folders of held-out items instead, as in `data.shards`.
        items: at most this many are evaluated.
    """

    every: Steps = 0
    share: Annotated[float, Range(0, 0.9)] = 0.0
    shards: FilePath | Annotated[tuple[FilePath, ...], Length(1, 10_000)] = ""
    items: Annotated[int, Range(1, 1_000_000)] = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share and self.shards:
            raise ValueError(f"validation has share {self.share} and shards, but one is expected; leave one out.")
        if self.every and not (self.share or self.shards):
            raise ValueError("validation.every is set, but neither share nor shards; give one, or set every to 0.")


class Subset:
    """Some items of a set, under the ids that they have there."""

    def __init__(self, items: Items, indices: Sequence[int], ids: Sequence[str]):
        self.items, self.indices, self._ids = items, list(indices), [ids[index] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def ids(self) -> list[str]:
        """Of its items."""
        return self._ids

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """See `Items`."""
        return {"id": self._ids[index], **self.items.item(self.indices[index], rng)}


def split(items: Items, share: float) -> tuple[Subset, Subset]:
    """Training and validation items. To which of the two an item belongs follows from a hash of its id alone.

    Raises:
        ValueError: the items cannot be told apart, or one of the two sets would be empty.
    """
    if not isinstance(items, NamedItems):
        raise ValueError(
            "validation.share holds items out, but this task mixes all its items of the same material; set it to 0."
        )
    ids = items.ids()
    out = [_hash(f"held out {name}") < share for name in ids]
    parts = [[index for index, held in enumerate(out) if held is which] for which in (False, True)]
    if not all(parts):
        raise ValueError(
            f"validation.share {share} leaves {len(parts[0])} items to train on and {len(parts[1])} for validation of "
            f"{len(ids)}, but some of both are expected; give another share."
        )
    return Subset(items, parts[0], ids), Subset(items, parts[1], ids)


def warn_of_overlap(items: Items, held_out: Items) -> None:
    """Warn where validation items are also trained on, as far as ids tell."""
    if isinstance(items, NamedItems) and isinstance(held_out, NamedItems):
        with suppress(ValueError):  # items that are made of each other's data have no ids
            both = set(items.ids()) & set(held_out.ids())
            if both:
                names = ", ".join(sorted(both)[:5])
                log.warning("%d items are in validation.shards and in the training set: %s", len(both), names)


class Validation:
    """Validation during training: after which steps, on which items, and what is done with the best weights.

    Args:
        items: held out. Where there are more than the settings allow, a fixed subset of them is taken.
        keep_best: `keep_best(step, loss)` is called on the first process where the loss is the lowest so far, with the
            weights to keep in place.
    """

    def __init__(self, items: Items, settings: ValidationSettings, keep_best: Callable[[int, float], None]):
        ids = items.ids() if isinstance(items, NamedItems) else [str(index) for index in range(len(items))]
        chosen = sorted(range(len(ids)), key=lambda index: _hash(f"chosen {ids[index]}"))[: settings.items]
        self.items, self.every, self.keep_best = Subset(items, chosen, ids), settings.every, keep_best

    def due(self, step: int, steps: int) -> bool:
        """Whether a validation follows when `step` of `steps` steps are done."""
        return step > 0 and (step % self.every == 0 or step == steps)

    @torch.no_grad()
    def loss(self, objective: Objective, loop: LoopConfig, accelerator: Accelerator, *, workers: int = 0) -> float:
        """The mean of the objective's loss over all items, each with noise of its own that never changes.

        Items are divided among the processes, and each returns the same number.
        """
        rank, processes = accelerator.process_index, accelerator.num_processes
        loader = DataLoader(
            _Fixed(self.items),
            batch_size=max(1, loop.batch // (loop.accumulate * processes)),
            sampler=range(rank, len(self.items), processes),
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=settle_worker if workers else None,
            generator=torch.Generator(),  # so that torch's global one does not advance
        )
        total = torch.zeros(2, dtype=torch.float32 if accelerator.device.type == "mps" else torch.float64)
        for batch in loader:
            count = len(batch["id"])
            loss = objective(send_to_device(batch, accelerator.device))["loss"]
            total += torch.tensor([float(loss) * count, count], dtype=total.dtype)
        summed = accelerator.reduce(total.to(accelerator.device), "sum")
        return float(summed[0] / summed[1])


class _Fixed(Dataset[Item]):
    """Validation items, whatever is random in them drawn from a hash of their ids."""

    def __init__(self, items: Subset):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        name = self.items.ids()[index]
        seed = list(hashlib.sha256(f"validation {name}".encode()).digest())
        spread = torch.tensor(_hash(f"spread {name}"), dtype=torch.float32)
        return {SPREAD: spread, **self.items.item(index, np.random.default_rng(seed))}


def _hash(text: str) -> float:
    """0 to 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
