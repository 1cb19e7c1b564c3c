"""What measured rates come to on machines."""

from __future__ import annotations

import pytest

from training.cluster.settings import Resources
from training.refine.cost import Cost, estimate

HOUR = 3600.0
COSTS = [
    Cost("clips", 320 * HOUR, Resources(workers=64)),
    Cost("matching", 40 * HOUR, Resources(cpus=1, gpus=0.25, workers=8)),
    Cost("rephrase", 20 * HOUR, Resources(cpus=0.1, workers=4)),
]


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "hours", "waits_for"),
    [
        (1, 16, 1, (320 + 40 + 2) / 16, "CPUs"),
        (1, 64, 1, 10, "GPUs"),
        (4, 16, 1, (320 + 40 + 2) / 64, "CPUs"),
        (64, 16, 1, 5, "workers of clips, 64 at most"),
        (1, 16, 0, float("inf"), "GPUs"),
    ],
)
def test_a_run_takes_as_long_as_what_is_scarcest(
    machines: int, cpus: float, gpus: float, hours: float, waits_for: str
) -> None:
    found = estimate(COSTS, machines, cpus, gpus)
    assert found.hours == pytest.approx(hours)
    assert found.waits_for == waits_for
