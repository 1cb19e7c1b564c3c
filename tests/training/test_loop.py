"""The shared training loop: order of items, exact resume, several processes, states, and what stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.engine import settings
from training.engine.loader import Order, build_loader
from training.engine.loop import train
from training.engine.optimization import learning_rate
from training.engine.settings import LoopConfig

from .toys import LOOP, Line, Numbers, plain_average


@pytest.mark.parametrize(
    ("asked", "fast", "taken"),
    [("auto", True, "bf16"), ("auto", False, "no"), ("bf16", False, "bf16"), ("fp32", True, "no")],
)
def test_bf16_is_taken_where_it_is_fast_or_asked_for(monkeypatch, asked, fast, taken) -> None:
    monkeypatch.setattr(settings, "fast_bf16", lambda: fast)
    assert LoopConfig(batch=1, lr=1.0, precision=asked).mixed_precision == taken


@pytest.mark.parametrize("kinds", [set(), {"amx_tile"}, {"avx512_bf16"}])
def test_bf16_is_fast_on_processors_that_multiply_it(monkeypatch: pytest.MonkeyPatch, kinds: set[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{kind}_supported", lambda kind=kind: kind in kinds, raising=False)
    assert settings.fast_bf16() == bool(kinds)


def test_every_epoch_visits_every_item_once() -> None:
    numbers = [place for batch in Order(10, batch=5, steps=6, seed=1) for place in batch]
    assert [number for number, _ in numbers] == list(range(30))
    epochs = [[index for _, index in numbers[start : start + 10]] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_processes_and_micro_batches_share_a_step() -> None:
    whole = [sorted(batch) for batch in Order(10, batch=8, steps=3, seed=1)]
    parts: list[list[tuple[int, int]]] = [[] for _ in range(3)]
    for rank in range(2):
        for place, batch in enumerate(Order(10, batch=8, steps=3, seed=1, accumulate=2, rank=rank, processes=2)):
            assert len(batch) == 2
            parts[place // 2] += batch
    assert [sorted(part) for part in parts] == whole
    with pytest.raises(ValueError, match="multiple of 3"):
        Order(10, batch=8, steps=1, processes=3)


def test_a_later_start_sees_what_it_would_have_seen() -> None:
    assert list(Order(10, batch=4, steps=9, seed=2))[5:] == list(Order(10, batch=4, steps=9, first=5, seed=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_the_same_items(workers: int) -> None:
    order = Order(10, batch=4, steps=3, seed=2)
    here = [batch["x"] for batch in build_loader(Numbers(), order)]
    there = [batch["x"] for batch in build_loader(Numbers(), order, workers=workers)]
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_learning_rate_warms_up_and_falls_or_stays() -> None:
    loop = LoopConfig(batch=1, lr=1.0, steps=1000, warmup=100)
    assert learning_rate(0, 1000, loop) == pytest.approx(0.01)
    assert learning_rate(100, 1000, loop) == pytest.approx(1.0)
    assert learning_rate(550, 1000, loop) == pytest.approx(0.02 + 0.98 / 2, rel=1e-2)
    assert learning_rate(999, 1000, loop) == pytest.approx(0.02, abs=1e-3)
    constant = LoopConfig(batch=1, lr=1.0, steps=1000, warmup=0, schedule="constant")
    assert {learning_rate(step, 1000, constant) for step in (0, 500, 999)} == {1.0}


def test_epochs_are_counted_in_steps() -> None:
    assert LoopConfig(batch=4, lr=1.0, epochs=3).length(10) == 8
    with pytest.raises(ValueError, match="one of the two"):
        LoopConfig(batch=4, lr=1.0).length(10)


def test_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Against AdamW, clipping and averaging written out; the average's warm-up is diffusers'."""
    trained = Line()
    train(trained, Numbers(), LOOP, tmp_path)
    for ours, expected in zip(trained.parameters(), plain_average(), strict=True):
        torch.testing.assert_close(ours.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_are_one_batch(tmp_path: Path) -> None:
    results = []
    for accumulate in (1, 2):
        objective = Line()
        loop = LoopConfig(batch=4, lr=0.05, steps=6, accumulate=accumulate, precision="fp32")
        train(objective, Numbers(), loop, tmp_path / str(accumulate))
        results.append(objective.layer.weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_items_and_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 5, with the items \d.*step-00000005\.state"):
        train(Line(bad_step=5), Numbers(), LOOP, tmp_path)
    state = torch.load(tmp_path / "states" / "step-00000005.state", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["learner"]["module"].values())
