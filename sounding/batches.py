"""How batches are run: one row is repeated to match many, and a CPU takes them one by one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .diffusion import OnStep


def paired(patches: Tensor, others: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Patches [B, P, L] and as many rows of something else, one row of either repeated to match the other.

    Raises:
        ValueError: other numbers of rows; `name` is what the others are called.
    """
    rows = max(len(patches), len(others))
    if len(patches) not in (1, rows) or len(others) not in (1, rows):
        raise ValueError(
            f"There are {len(patches)} images and {len(others)} {name}, but equal numbers (or one of either) are "
            "expected."
        )
    return patches.expand(rows, -1, -1), others.expand(rows, -1)


def one_by_one(*batches: Tensor | None) -> list[tuple[Any, ...]]:
    """Batches of equal size, split into batches of one item on a CPU and left whole on other devices.

    A CPU gains next to nothing from batches, but sums in another order in them: the last bits of an item would depend
    on the others, and an object alone would not sound exactly as it does among several.
    """
    first = batches[0]
    if first is None or first.device.type != "cpu" or len(first) < 2:
        return [batches]
    return [tuple(None if each is None else each[i : i + 1] for each in batches) for i in range(len(first))]


def share_of_steps(on_step: OnStep | None, number: int, parts: int) -> OnStep | None:
    """The callback for part `number` (from 0) of `parts` equal parts of the work, counting the steps of all of them."""
    if on_step is None:
        return None
    return lambda done, steps: on_step(number * steps + done, parts * steps)
