"""Power iteration beside exact norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.evaluate.theory.lipschitz import GELU_SLOPE, SOFTMAX_SLOPE, local_slope, mlp_limit


def test_the_slope_of_a_linear_map_is_its_spectral_norm() -> None:
    matrix = torch.randn(7, 5, dtype=torch.float64)
    exact = float(torch.linalg.svdvals(matrix)[0])
    assert local_slope(lambda x: x @ matrix.T, torch.randn(1, 5).double(), iterations=200) == pytest.approx(
        exact, rel=1e-3
    )
    assert local_slope(lambda x: x @ matrix.T, torch.randn(1, 5).double(), iterations=1) <= exact


def test_the_slope_of_a_curved_map_is_that_of_its_jacobian() -> None:
    matrix, point = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(matrix @ x) * x.square()

    exact = float(torch.linalg.svdvals(torch.func.jacrev(f)(point))[0])
    assert local_slope(f, point, iterations=200) == pytest.approx(exact, rel=1e-3)


def test_a_constant_has_no_slope() -> None:
    assert local_slope(lambda x: x * 0, torch.randn(3)) == 0


def test_slopes_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite number is expected"):
        local_slope(lambda x: x * float("inf"), torch.randn(3))


@pytest.mark.parametrize(("between", "slope"), [(nn.GELU(), GELU_SLOPE), (nn.Softmax(dim=-1), 0.5)])
def test_an_mlp_stays_below_its_limit(between: nn.Module, slope: float) -> None:
    mlp = nn.Sequential(nn.Linear(4, 9), between, nn.Linear(9, 3)).requires_grad_(False)
    norms = [float(torch.linalg.svdvals(mlp[i].weight)[0]) for i in (0, 2)]
    assert mlp_limit(mlp) == pytest.approx(norms[0] * norms[1] * slope, rel=1e-6)
    assert max(local_slope(mlp, torch.randn(1, 4) * 3) for _ in range(5)) <= mlp_limit(mlp)
    with pytest.raises(ValueError, match="ReLU"):
        mlp_limit(nn.Sequential(nn.ReLU()))


def test_the_slope_of_a_softmax_is_reached_at_two_halves() -> None:
    halves = torch.tensor([2.0, 2.0, -30.0])
    assert local_slope(lambda x: x.softmax(dim=-1), halves) == pytest.approx(SOFTMAX_SLOPE, rel=1e-3)


def test_no_slope_of_gelu_is_greater() -> None:
    x = torch.linspace(-10, 10, 100_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(functional.gelu(x).sum(), x)
    assert GELU_SLOPE - 1e-4 < float(slopes.max()) <= GELU_SLOPE
