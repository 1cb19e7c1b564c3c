"""Resizing, where torch does it right.

On Apple's MPS torch cannot resize with antialiasing, nor pool to sizes that do not divide (its own message says so, or
the values are wrong, depending on the version). Both are small beside a network, so they run on the CPU then.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RIGHT = ("cpu", "cuda")  # kinds of devices that do all of this as the CPU does


def _there(pixels: Tensor) -> Tensor:
    """The same pixels where they can be resized."""
    return pixels if pixels.device.type in RIGHT else pixels.cpu()


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] at `size` (height, width), on its device: smaller by averaging, larger by interpolation."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    made = functional.interpolate(_there(pixels), size, mode="bilinear", antialias=True, align_corners=False)
    return made.to(pixels.device)


def cell_means(pixels: Tensor, cells: int) -> Tensor:
    """[B, C, h, w] -> [B, C, cells, cells] on its device: the mean of each cell of an even grid over the image."""
    return functional.adaptive_avg_pool2d(_there(pixels), cells).to(pixels.device)


def cell_peaks(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, h, w] -> [B, rows, columns] on its device: the largest value in each cell of an even grid."""
    return functional.adaptive_max_pool2d(_there(pixels), size).to(pixels.device)


def sampled(maps: Tensor, places: Tensor) -> Tensor:
    """Values of maps [B, C, h, w] at places [B, 1, K, 2] (x, y; -1..1 from edge to edge): [B, C, 1, K].

    Beyond the middles of the outermost cells their own values count: `grid_sample` with the padding "border", which
    MPS does not have, so the places are brought there before.
    """
    height, width = maps.shape[-2:]
    most = 1 - 1 / torch.tensor([width, height], dtype=places.dtype, device=places.device)
    return functional.grid_sample(maps, places.maximum(-most).minimum(most), align_corners=False)
