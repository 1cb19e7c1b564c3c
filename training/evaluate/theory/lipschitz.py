"""Local Lipschitz constants by power iteration, and a guaranteed one of an MLP.

The greatest singular value of f's Jacobian at a point is the steepest slope of f there. The Lipschitz constant that the
theorem speaks of is the supremum over all points, so the maximum over some points is an estimate from below.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

GELU_SLOPE = 1.1290  # the greatest derivative of GELU, at sqrt(2); rounded up
SOFTMAX_SLOPE = 0.5  # the greatest spectral norm of its Jacobian diag(p) - p p^T, at two equal halves
REACH = 1e-3  # of the point's norm, to both sides: far above float32's rounding, and short beside what f bends on


def local_slope(f: Callable[[Tensor], Tensor], point: Tensor, *, iterations: int = 6, seed: int = 0) -> float:
    """The spectral norm of f's Jacobian J at `point`, by power iteration on J^T J.

    J x is a central difference, which takes two runs of f without derivatives (forward mode takes ten times as long
    through a U-Net), and J^T y comes from reverse mode. Each value on the way is the slope of a straight line between
    two points of f, so it is at most f's Lipschitz constant even where the iteration has not converged.

    Args:
        f: differentiable; its results may have any shape.
        point: where, any shape.
        iterations: fewer are made once the estimate grows by less than one part in a thousand.
        seed: of the vector to begin with.

    Raises:
        ValueError: a slope is not finite.
    """
    start = torch.randn(point.shape, generator=torch.Generator().manual_seed(seed)).to(point)
    direction = start / start.norm()
    reach = REACH * max(float(point.norm()), 1e-3)
    with torch.enable_grad():
        leaf = point.detach().clone().requires_grad_(True)
        output = f(leaf)
    best = 0.0
    for _ in range(iterations):
        with torch.no_grad():
            pushed = (f(point + reach * direction) - f(point - reach * direction)) / (2 * reach)
        slope = float(pushed.norm())
        if not slope < float("inf"):
            raise ValueError(f"The slope of the model is {slope}, but a finite number is expected.")
        settled = slope <= best * 1.001
        best = max(best, slope)
        if settled:
            break
        (pulled,) = torch.autograd.grad(output, leaf, pushed, retain_graph=True)
        length = pulled.norm()
        if length == 0:
            break
        direction = pulled / length
    return best


def mlp_limit(mlp: nn.Sequential) -> float:
    """A Lipschitz constant of linear layers, GELU and softmax: the product of spectral norms (exact) and slopes.

    Raises:
        ValueError: layers of another kind.
    """
    limit = 1.0
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            limit *= float(torch.linalg.matrix_norm(layer.weight.double(), 2))
        elif isinstance(layer, nn.GELU):
            limit *= GELU_SLOPE
        elif isinstance(layer, nn.Softmax):
            limit *= SOFTMAX_SLOPE
        else:
            raise ValueError(f"The MLP has a {type(layer).__name__}, but Linear, GELU and Softmax are expected.")
    return limit
