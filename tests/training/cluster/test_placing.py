"""Whether GPUs are enough, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations, product

import pytest

from training.cluster.placing import check_gpus, shares
from training.cluster.rows import Row
from training.cluster.settings import Resources
from training.cluster.stage import StopRun


@dataclass
class Idle:
    """A stage that is only asked what it takes."""

    name: str
    gpus: float
    gpus_setting: str = field(init=False)
    resources: Resources = field(init=False)

    def __post_init__(self) -> None:
        self.gpus_setting, self.resources = f"{self.name}.gpus", Resources(gpus=self.gpus)

    def __call__(self, rows: list[Row]) -> list[Row]:
        return rows


def stages(*gpus: float) -> list[Idle]:
    return [Idle(f"step{number}", asked) for number, asked in enumerate(gpus)]


@pytest.mark.parametrize(
    ("asked", "nodes"),
    [
        ((0, 0), ()),
        ((0.25, 0, 0.25, 0.5), (1,)),
        ((1, 1), (1, 0, 1)),
        ((0.6, 2), (2, 1)),
        ((0.4, 0.6, 0.6, 0.4), (1, 1)),  # in their order the third one would find no room
    ],
)
def test_what_fits_is_let_through(asked: tuple[float, ...], nodes: tuple[float, ...]) -> None:
    check_gpus(stages(*asked), nodes)


@pytest.mark.parametrize(
    ("asked", "nodes", "said"),
    [
        ((0, 0.5), (0, 0), r"step1 asks for 0\.5 GPUs per worker, but the cluster has none; set step1\.gpus to 0\.$"),
        ((2,), (1, 1), r"no machine of the cluster has more than 1; set step0\.gpus to 1 or less"),
        ((1, 1), (1,), r"does not fit into the 1 GPUs of the cluster \(step0\.gpus=1, step1\.gpus=1\)"),
        ((0.6, 0.6, 0.6), (2,), "does not fit into the 2 GPUs"),
        ((0.5, 2), (2,), "does not fit into the 2 GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    asked: tuple[float, ...], nodes: tuple[float, ...], said: str
) -> None:
    with pytest.raises(StopRun, match=said):
        check_gpus(stages(*asked), nodes)


def test_gpus_are_shares_of_one_or_whole() -> None:
    with pytest.raises(ValueError, match=r"gpus is 1\.5"):
        Resources(gpus=1.5)


@pytest.mark.parametrize("nodes", [[1.0], [2.0], [1.0, 1.0], [4.0, 0.0, 2.0], [64.0]])
def test_one_worker_of_every_stage_fits_wherever_the_others_are(nodes: list[float]) -> None:
    found = shares([Resources(cpus=asked) for asked in (1, 4, 0.1)], nodes)
    assert found[1] > found[0] > found[2] > 0
    assert nodes != [64.0] or found == [1, 4, 0.1]
    for order in permutations(found):
        for places in product(range(len(nodes)), repeat=len(order)):
            free = list(nodes)
            for size, place in zip(order, places, strict=True):
                where = place if free[place] >= size else free.index(max(free))
                assert free[where] >= size
                free[where] -= size
