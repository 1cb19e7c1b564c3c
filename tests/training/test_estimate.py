"""Estimates against closed forms, and fake steps against real ones."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.engine.estimate import UTILISATION, estimate, measure_speed
from training.engine.probe import probe_step
from training.tasks.discriminators import WaveformCritic

CPU = torch.device("cpu")


def test_a_linear_has_its_closed_form() -> None:
    module = nn.Sequential(nn.Linear(30, 50), nn.Linear(50, 7))
    module[0].requires_grad_(False)
    found = estimate(
        module,
        lambda device: torch.zeros(1, 30, device=device),
        batch=12,
        steps=100,
        mixed_precision="no",
        ema=True,
        processes=3,
        speed=1e9,
    )
    assert [(part.name, part.learning, part.frozen) for part in found.parts] == [("0", 0, 1550), ("1", 357, 0)]
    assert found.weights == 4 * (1550 + 357)
    assert (found.gradients, found.moments, found.average) == (2 * 4 * 357, 2 * 4 * 357, 4 * 357)
    assert found.activations == 4 * 4 * 50  # the second layer's input, four items a process
    assert found.copies == 0
    assert found.flops == 12 * (2 * 30 * 50 + 2 * 50 * 7 + 2 * 50 * 7)  # two forward, the second's weights backward
    assert found.seconds_per_step == pytest.approx(found.flops / 3 / (1e9 * UTILISATION))
    assert found.hours == pytest.approx(100 * found.seconds_per_step / 3600)
    assert found.memory == 4 * 1907 + 5 * 4 * 357 + 800
    assert found.measured_by == "fake tensors"
    assert all(parameter.grad is None and parameter.device == CPU for parameter in module.parameters())


def test_a_convolution_has_its_closed_form() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1))
    found = probe_step(module, lambda device: torch.zeros(1, 3, 16, 20, device=device), CPU, torch.float32)
    one, two = 2 * 8 * 10 * 8 * 3 * 25, 2 * 8 * 10 * 4 * 8
    assert found.flops == 2 * one + 3 * two  # the first needs no gradient of its input
    # The picture, and what ReLU gives: its own backward pass and the next layer's share it.
    assert found.saved == 4 * (3 * 16 * 20 + 8 * 8 * 10)


def test_half_precision_counts_casts_once_and_activations_by_the_item() -> None:
    module = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 16))

    def example(device: torch.device) -> Tensor:
        return torch.zeros(1, 64, device=device)

    found = probe_step(module, example, CPU, torch.bfloat16)
    assert found.saved == 2 * (64 + 32 + 32)  # the input cast, GELU's input and its result
    assert found.copies == 2 * 32 * 16  # the second layer's weights; the first's are not needed behind it
    many = [
        estimate(module, example, batch=batch, steps=1, mixed_precision="bf16", ema=0.0, speed=1.0) for batch in (1, 10)
    ]
    assert many[1].activations == 10 * many[0].activations
    assert many[1].copies == many[0].copies
    assert many[0].average == 0


class Looks(nn.Module):
    """A step that looks at its numbers, which have to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 10)
        self.norm = nn.BatchNorm1d(10)

    def forward(self, x: Tensor, *, look: bool) -> dict[str, Any]:
        if look and not torch.isfinite(x).all().item():
            raise ValueError("not finite")
        y = self.layer(x)
        return {"loss": self.norm(torch.cat([y, 2 * y])).square().sum(), "other": [y]}


def test_a_step_that_looks_at_its_numbers_runs_for_real_with_the_same_result() -> None:
    module = Looks()
    real, fake = (
        probe_step(module, lambda device, look=look: {"x": torch.randn(1, 10), "look": look}, CPU, torch.float32)  # type: ignore[misc]
        for look in (True, False)
    )
    assert (real.by, fake.by) == ("a real step", "fake tensors")
    assert (real.saved, real.copies, real.flops) == (fake.saved, fake.copies, fake.flops)
    assert real.flops == 2 * 2 * 10 * 10
    assert int(module.norm.num_batches_tracked) == 0  # a copy ran


def test_attention_counts_its_products() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.scale
            return nn.functional.scaled_dot_product_attention(x, x, x)

    found = probe_step(Attention(), lambda device: torch.randn(1, 2, 16, 8), CPU, torch.float32)
    product = 2 * 2 * 16 * 16 * 8  # two heads
    assert found.flops == 2 * product + 5 * product  # the backward pass makes the scores once more


def test_weight_norms_are_weights_and_take_no_memory_an_item() -> None:
    critic = WaveformCritic(1 / 32).periods[1]
    fake = probe_step(critic, lambda device: torch.randn(1, 1, 400, device=device), CPU, torch.float32)
    layers = [module for module in critic.modules() if isinstance(module, nn.Conv2d)]
    effective = sum(4 * layer.weight.numel() for layer in layers)
    norms = sum(4 * layer.out_channels for layer in layers)  # kept by the weight norm's own backward pass
    maps = sum(4 * each.numel() for each in critic(torch.zeros(1, 1, 400))[:-1])
    assert fake.by == "fake tensors"
    assert fake.copies == effective + norms
    # Each map once, what leaky ReLU got to make it, and the folded sound.
    assert fake.saved == 2 * maps + 4 * 402


def test_shared_parameters_count_once_and_own_ones_have_a_line() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = self.one
            self.three = nn.Linear(4, 4, bias=False)
            self.three.weight = self.one.weight
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.three(self.one(x)) * self.scale.sum()

    found = estimate(Tied(), lambda device: torch.zeros(1, 4), batch=1, steps=1, speed=1.0)
    assert [(part.name, part.learning) for part in found.parts] == [("one", 16), ("(its own)", 3)]


def test_the_table_shows_every_figure() -> None:
    from rich.console import Console

    found = estimate(nn.Linear(1000, 500), lambda device: torch.zeros(1, 1000), batch=4, steps=3600, speed=1e6)
    console = Console(file=io.StringIO(), width=120)
    console.print(found.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (str(found), shown):
        assert "0.50 M learn" in text
        assert "1.91 MiB" in text  # weights
        assert "0.008 GFLOP" in text
        assert "22.9 s" in text  # 8e6 / 0.35e6


def test_bad_arguments_are_named() -> None:
    def example(device: torch.device) -> Tensor:
        return torch.zeros(1, 2)

    with pytest.raises(ValueError, match=r"'half'.*no, bf16, fp16"):
        estimate(nn.Linear(2, 2), example, batch=1, steps=1, mixed_precision="half", ema=False)
    with pytest.raises(ValueError, match="Nothing learns"):
        estimate(nn.Linear(2, 2).requires_grad_(False), example, batch=1, steps=1, ema=False)
    with pytest.raises(ValueError, match="batch 0"):
        estimate(nn.Linear(2, 2), example, batch=0, steps=1, ema=False)


def test_speed_is_counted_operations_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(0.0, 0.5)  # every round takes half a second
    monkeypatch.setattr("time.perf_counter", lambda: next(readings))
    with FlopCounterMode(display=False) as counter:
        speed = measure_speed(CPU, torch.bfloat16)
    rounds = next(readings)  # two readings of half a second each
    assert speed == pytest.approx(counter.get_total_flops() / rounds / 0.5)
