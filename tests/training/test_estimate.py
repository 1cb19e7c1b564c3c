"""Estimates against closed forms, and fake steps against real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.engine.estimate import UTILISATION, estimate, measure_speed, measure_step
from training.tasks.discriminators import WaveformCritic

CPU = torch.device("cpu")


class Summed(nn.Module):
    """A module's result, summed, as the loss of a batch."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Any]) -> Tensor:
        made = self.module(batch["x"])
        return made.sum() if isinstance(made, Tensor) else sum(each.sum() for each in made)


def example(*shape: int) -> Callable[[torch.device], dict[str, Any]]:
    return lambda device: {"x": torch.zeros(1, *shape, device=device)}


def test_linear_layers_have_their_closed_form() -> None:
    module = nn.Sequential(nn.Linear(30, 50), nn.Linear(50, 7))
    module[0].requires_grad_(False)
    found = estimate(
        Summed(module), example(30), batch=12, steps=100, mixed_precision="no", ema=True, processes=3, speed=1e9
    )
    assert [(part.name, part.learning, part.frozen) for part in found.parts] == [("module", 357, 1550)]
    assert found.weights == 4 * (1550 + 357)
    assert (found.gradients, found.moments, found.average) == (2 * 4 * 357, 2 * 4 * 357, 4 * 357)
    assert found.activations == 4 * 4 * 50  # the second layer's input, four items per process
    assert found.flops == 12 * (2 * 30 * 50 + 2 * 50 * 7 + 2 * 50 * 7)  # two forward, the second's weights backward
    assert found.seconds_per_step == pytest.approx(found.flops / 3 / (1e9 * UTILISATION))
    assert found.hours == pytest.approx(100 * found.seconds_per_step / 3600)
    assert found.memory == 4 * 1907 + 5 * 4 * 357 + 800
    assert all(parameter.grad is None and parameter.device == CPU for parameter in module.parameters())


@pytest.mark.parametrize("items", [1, 3])
def test_convolutions_have_their_closed_form(items: int) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1))
    saved, flops = measure_step(Summed(module), example(3, 16, 20), items, CPU, torch.float32)
    one, two = 2 * 8 * 10 * 8 * 3 * 25, 2 * 8 * 10 * 4 * 8
    assert flops == items * (2 * one + 3 * two)  # the first needs no gradient of its input
    # The image, and what ReLU gives: its own backward pass and the next layer's share it.
    assert saved == items * 4 * (3 * 16 * 20 + 8 * 8 * 10)


def test_half_precision_keeps_a_cast_of_the_weights_once() -> None:
    module = Summed(nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 16)))
    one, ten = (measure_step(module, example(64), items, CPU, torch.bfloat16)[0] for items in (1, 10))
    per_item = 2 * (64 + 32 + 32)  # the input cast, GELU's input and its result
    cast = 2 * 32 * 16  # the second layer's weights; no gradient of the first layer's input is wanted
    assert (one, ten) == (per_item + cast, 10 * per_item + cast)


class Looks(nn.Module):
    """A step that looks at its numbers, which have to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 10)
        self.norm = nn.BatchNorm1d(10)
        self.look = True

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.look and not torch.isfinite(batch["x"]).all().item():
            raise ValueError("not finite")
        y = self.layer(batch["x"])
        return {"loss": self.norm(torch.cat([y, 2 * y])).square().sum(), "other": [y]}


def test_a_step_that_looks_at_its_numbers_runs_for_real_with_the_same_result() -> None:
    module = Looks()
    real = measure_step(module, example(10), 1, CPU, torch.float32)
    twice = measure_step(module, example(10), 2, CPU, torch.float32)
    module.look = False
    assert real == measure_step(module, example(10), 1, CPU, torch.float32)
    assert twice == (2 * real[0], 2 * real[1])
    assert real[1] == 2 * 2 * 10 * 10
    assert int(module.norm.num_batches_tracked) == 0  # a copy ran


def test_attention_counts_its_products() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.scale
            return nn.functional.scaled_dot_product_attention(x, x, x)

    _, flops = measure_step(Summed(Attention()), example(2, 16, 8), 1, CPU, torch.float32)
    product = 2 * 2 * 16 * 16 * 8  # two heads
    assert flops == 2 * product + 5 * product  # the backward pass makes the scores once more


def test_weight_norms_are_kept_once() -> None:
    critic = WaveformCritic(1 / 32).periods[1]
    one, three = (measure_step(Summed(critic), example(1, 400), items, CPU, torch.float32)[0] for items in (1, 3))
    layers = [module for module in critic.modules() if isinstance(module, nn.Conv2d)]
    effective = sum(4 * layer.weight.numel() for layer in layers)
    norms = sum(4 * layer.out_channels for layer in layers)  # kept by the weight norm's own backward pass
    maps = sum(4 * each.numel() for each in critic(torch.zeros(1, 1, 400))[:-1])
    # Each map once, what leaky ReLU got to make it, and the folded sound.
    per_item = 2 * maps + 4 * 402
    assert one == per_item + effective + norms
    assert three == 3 * per_item + effective + norms


def test_shared_parameters_count_once_and_own_ones_have_a_line() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = self.one
            self.three = nn.Linear(4, 4, bias=False)
            self.three.weight = self.one.weight
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return (self.three(self.one(batch["x"])) * self.scale.sum()).sum()

    found = estimate(Tied(), example(4), batch=1, steps=1, speed=1.0)
    assert [(part.name, part.learning) for part in found.parts] == [("one", 16), ("(its own)", 3)]


def test_the_table_shows_every_figure() -> None:
    text = str(estimate(Summed(nn.Linear(1000, 500)), example(1000), batch=4, steps=3600, speed=1e6))
    assert "0.50 M learn" in text
    assert "1.91 MiB" in text  # weights
    assert "0.008 GFLOP" in text
    assert "22.9 s" in text  # 8e6 / 0.35e6


def test_bad_arguments_are_named() -> None:
    module = Summed(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'half'.*no, bf16, fp16"):
        estimate(module, example(2), batch=1, steps=1, mixed_precision="half")
    with pytest.raises(ValueError, match="batch 0"):
        estimate(module, example(2), batch=0, steps=1)
    with pytest.raises(ValueError, match="Nothing learns"):
        estimate(module.requires_grad_(False), example(2), batch=1, steps=1)


def test_speed_is_counted_operations_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(0.0, 0.5)  # every round takes half a second
    monkeypatch.setattr("time.perf_counter", lambda: next(readings))
    with FlopCounterMode(display=False) as counter:
        speed = measure_speed(CPU, torch.bfloat16)
    rounds = next(readings)  # two readings of half a second each
    assert speed == pytest.approx(counter.get_total_flops() / rounds / 0.5)
