"""Muon's steps against the singular value decomposition, torch's own Muon, and plain iterations in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.engine.environment import build_accelerator
from training.engine.loop import train
from training.engine.muon import A, B, C, Muon, orthogonal
from training.engine.optimization import TrainedModule
from training.engine.settings import LoopConfig

from .toys import LOOP, Line, Numbers, end_after_saving, scaled, weights_of


def iterated(matrix: Tensor) -> Tensor:
    """The polynomial's rounds as published, on the matrix itself."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(6, 50), (50, 6), (24, 24)])
def test_singular_values_come_to_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = shape
    rank = min(shape)
    left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, -2.5, rank, dtype=torch.float64)
    matrix = left @ torch.diag(values) @ right.T
    found = orthogonal(matrix).double()
    expected = iterated(matrix) if rows <= columns else iterated(matrix.T).T
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    inside = left.T @ found @ right
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-3, rtol=0)
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3


def test_nothing_stays_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_steps_are_those_of_torch_for_matrices() -> None:
    """torch's Muon computes in bfloat16, so three of its steps are equal to some hundredths of a step's length."""
    generator = torch.Generator().manual_seed(1)
    start, gradients = torch.randn(12, 40, generator=generator), torch.randn(3, 12, 40, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        Muon([ours], 0.01, 0.1),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    for gradient in gradients:
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (theirs.detach() - start).norm()
    assert moved > 0.01
    assert (ours.detach() - theirs.detach()).norm() < 0.05 * moved


def test_convolutions_are_matrices_of_a_row_per_output_channel() -> None:
    generator = torch.Generator().manual_seed(2)
    start, gradient = (torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2))
    conv, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    conv.grad, matrix.grad = gradient, gradient.flatten(1)
    for weight in (conv, matrix):
        Muon([weight], 0.02).step()
    torch.testing.assert_close(conv.flatten(1), matrix)
    assert not torch.equal(conv, start)


def test_a_module_has_muon_for_matrices_and_adamw_for_the_rest() -> None:
    loop = LoopConfig(batch=2, lr=0.01, steps=5, optimizer="muon")
    line = Line()
    trained = TrainedModule(line, loop, build_accelerator(loop))
    assert [list(map(id, optimizer.param_groups[0]["params"])) for optimizer in trained.optimizers.values()] == [
        [id(line.layer.bias)],
        [id(line.layer.weight)],
    ]
    plain = TrainedModule(Line(), LoopConfig(batch=2, lr=0.01, steps=5), build_accelerator(loop))
    assert list(plain.optimizers) == ["optimizer"]
    assert isinstance(plain.optimizers["optimizer"], torch.optim.AdamW)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, optimizer="muon")
    whole, broken, resumed = Line(), Line(), Line()
    train(whole, Numbers(), loop, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        end_after_saving(patch, 5, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train(broken, Numbers(), loop, tmp_path / "broken")
    train(resumed, Numbers(), loop, tmp_path / "broken")
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name


def test_no_weight_moves_where_the_gradients_of_any_overflow() -> None:
    line = Line()
    trained = TrainedModule(line, dataclasses.replace(LOOP, optimizer="muon"), scaled())
    before = weights_of(line)
    for weight, gradient in ((line.layer.weight, torch.inf), (line.layer.bias, 1.0)):
        weight.grad = torch.full_like(weight, gradient)
    scaler = trained.accelerator.scaler
    assert scaler is not None
    scaler.scale(torch.zeros(1))  # as a backward pass would begin
    trained.step(0.1)
    scaler.update()
    assert all(torch.equal(value, before[name]) for name, value in weights_of(line).items())
    assert scaler.get_scale() < 2.0**8
    for weight in (line.layer.weight, line.layer.bias):
        weight.grad = torch.ones_like(weight)
    trained.step(0.1)
    assert not any(torch.equal(weights_of(line)[name], before[name]) for name in ("layer.weight", "layer.bias"))
