"""Feature inversion: what the patch tower would hold of objects that ImageNet's head knows.

The million photographs are not at hand, but the head that learnt from them is. Cells of real images are moved, along
the directions in which cells of images differ, until the head takes them for a class: activation maximisation (Erhan
et al. 2009) in the last feature map before the head, with one nonlinear layer between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIDE = 2  # inverted objects fill so many cells each way
ASCENT = 25  # steps at most
STRIDE = 0.35  # of a step, in standard deviations of cells along its direction
MARGIN = (4.0, 20.0)  # where it stops: the class's logit above the mean of all; photographs of animals have 5 to 25
STRENGTH = (0.5, 1.5)  # how much of the object is in each cell
SHRINK = 0.1  # of the covariance towards its diagonal
CONTEXT = 0.8  # how far the cells to begin with are from the mean one, of what they are in images


@dataclass(frozen=True)
class TargetClasses:
    """The classes to be seen in each object, which may be a mixture of two, as mongrels are."""

    first: Tensor  # [N] class numbers
    second: Tensor  # [N]
    share: Tensor  # [N] of the second, 0..1

    def of(self, logits: Tensor) -> Tensor:
        """[N] mixed logits of [N, classes]."""
        one, other = (logits.gather(1, classes[:, None])[:, 0] for classes in (self.first, self.second))
        return one.lerp(other, self.share)


class CellStatistics(nn.Module):
    """Running mean and covariance of a feature map's cells [..., C]."""

    mean: Tensor  # [C]
    covariance: Tensor  # [C, C]
    seen: Tensor  # batches

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.zeros(width, width))
        self.register_buffer("seen", torch.tensor(0))

    @torch.no_grad()
    def observe(self, cells: Tensor) -> None:
        """Count cells; all calls have the same weight."""
        rows = cells.flatten(0, -2).float()
        self.seen += 1
        share = 1 / self.seen
        away = rows - rows.mean(dim=0)
        self.mean += (rows.mean(dim=0) - self.mean) * share
        self.covariance += (away.T @ away / len(rows) - self.covariance) * share

    def shrunk(self) -> Tensor:
        """The covariance [C, C], shrunk towards its diagonal."""
        return self.covariance.lerp(self.covariance.diagonal().diag(), SHRINK)


def blocks(count: int, grid: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """[count, SIDE^2] places of cells beside each other, anywhere on a grid."""
    top, left = (torch.randint(grid - SIDE + 1, (count, 1), generator=generator, device=device) for _ in range(2))
    within = torch.arange(SIDE**2, device=device)
    return (top + within // SIDE) * grid + left + within % SIDE


def invert(
    answer: Callable[[Tensor], Tensor],
    begin: Tensor,
    wanted: TargetClasses,
    cells: CellStatistics,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Cells of images in which the head sees the target classes.

    Args:
        answer: cells [N, K, C] -> logits [N, classes] of all K together, differentiable.
        begin: [N, K, C] cells of real images, K adjacent ones each.
        wanted: N of them.
        cells: statistics of the cells of real images.

    Returns:
        [N, K, C].
    """
    count, device = len(begin), begin.device
    draw = [torch.rand(count, *shape, generator=generator, device=device) for shape in ((begin.shape[1], 1), ())]
    strength, goal = (low + (high - low) * part for (low, high), part in zip((STRENGTH, MARGIN), draw, strict=True))
    begin = cells.mean + CONTEXT * (begin - cells.mean)
    usual = cells.shrunk()
    moved = torch.zeros(count, 1, begin.shape[2], device=device)
    for _ in range(ASCENT):
        moved.requires_grad_(True)
        with torch.enable_grad():
            logits = answer(begin + strength * moved)
            seen = wanted.of(logits)
            margin = seen - logits.mean(dim=-1)
            (up,) = torch.autograd.grad((seen - logits.logsumexp(dim=-1) + 0.1 * margin).sum(), moved)
        along = up @ usual
        length = (along * up).sum(dim=-1, keepdim=True).clamp(min=1e-12).sqrt()
        go = (margin.detach() < goal)[:, None, None]
        moved = (moved + go * STRIDE * along / length).detach()
    return begin + strength * moved
