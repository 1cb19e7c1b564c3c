"""Convolutions on a CPU with a fraction of the multiplications, equal to the direct ones up to rounding.

oneDNN's direct convolutions run at the speed of the processor's multiply-add units, so only fewer multiplications are
faster. All bilinear algorithms of a convolution have one form (Winograd 1980; Blahut, "Fast Algorithms for Signal
Processing"): a tile of values and the kernel are transformed, multiplied point by point, and transformed back,

    results @ ((kernel @ w) * (values @ x)),

and with many channels each point becomes one matrix product over the channels. Long kernels take the Fourier transform,
whose numbers are as exact as direct ones; kernels of three taps take Cook's and Toom's, which is better there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
TILES = 128  # at once: enough for fast matrix products, few enough for the processor's cache
# Where it was measured to be faster (`benchmarks/LOG.md`): channels for kernels of three taps and of more, and results
# per multiplication, since kernels are transformed in every call, which saves keeping several times their memory.
CHANNELS_OF_THREE, CHANNELS_OF_MORE, MOST_TAPS = 512, 128, 15
LENGTH = 32


@dataclass(frozen=True)
class Algorithm:
    """Correlation of N = m + k - 1 values with k taps to m results by P multiplications; float64 matrices."""

    kernel: Tensor  # [P, k]
    values: Tensor  # [P, N]
    results: Tensor  # [m, P]


@lru_cache(maxsize=32)
def fourier(size: int, taps: int) -> Algorithm:
    """By the real Fourier transform of `size` values, with three real products per complex one (Gauss)."""
    angles = 2 * math.pi / size * torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(size)
    cosines, sines = angles.cos(), angles.sin()
    inner = slice(1, size // 2)
    ends = [0, size // 2]
    c, s = cosines[inner], sines[inner]
    # The spectrum of x is c x - i s x; that of the reversed kernel, a conjugate, is c w + i s w.
    kernel = torch.cat([cosines[ends], c + s, c, s])
    values = torch.cat([cosines[ends], c, -s - c, c - s])
    # Real parts are the first product less the third, imaginary ones the first plus the second.
    back = torch.cat([cosines[ends] / 2, c - s, -s, -c]) * 2 / size
    return Algorithm(kernel[:, :taps], values, back.T[: size - taps + 1].contiguous())


@lru_cache(maxsize=32)
def toom_cook(results: int, taps: int, points: tuple[float, ...]) -> Algorithm:
    """By polynomials at `points` and at infinity, `results + taps - 2` of them."""
    alpha = torch.tensor(points, dtype=torch.float64)
    size = results + taps - 1
    if len(points) != size - 1:
        raise ValueError(f"{len(points)} points came, but {size - 1} are expected.")

    def product(roots: Tensor) -> Tensor:
        """Coefficients, from the lowest, of the polynomial with these roots."""
        coefficients = torch.ones(1, dtype=torch.float64)
        for root in roots:
            grown = torch.zeros(len(coefficients) + 1, dtype=torch.float64)
            grown[1:] += coefficients
            grown[:-1] -= root * coefficients
            coefficients = grown
        return coefficients

    values = torch.zeros(size, size, dtype=torch.float64)
    kernel = torch.zeros(size, taps, dtype=torch.float64)
    back = torch.zeros(results, size, dtype=torch.float64)
    for i, point in enumerate(alpha):
        others = torch.cat([alpha[:i], alpha[i + 1 :]])
        values[i, : size - 1] = product(others)
        kernel[i] = point ** torch.arange(taps) / (point - others).prod()
        back[:, i] = point ** torch.arange(results)
    values[-1] = product(alpha)
    kernel[-1, -1] = back[-1, -1] = 1
    return Algorithm(kernel, values, back)


def correlate(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, algorithm: Algorithm) -> Tensor:
    """[T, C] float32 and weights [O, C, k], k odd, to [T, O]: `conv1d` with zeros around x."""
    kernel, values, results = (each.to(x.dtype) for each in (algorithm.kernel, algorithm.values, algorithm.results))
    (length, channels), out_channels, taps = x.shape, len(weight), weight.shape[-1]
    m, products = results.shape
    size = values.shape[1]
    transformed = (kernel @ weight.reshape(-1, taps).T).view(products, out_channels, channels).transpose(1, 2)
    tiles = -(-length // (m * dilation))  # per phase of the dilation
    padding = dilation * (taps // 2)
    padded = x.new_zeros((tiles * m + taps - 1) * dilation, channels)
    padded[padding : padding + length] = x
    made = x.new_empty(tiles * m * dilation, out_channels)
    for first in range(0, tiles, step := max(1, TILES // dilation)):
        count = min(step, tiles - first)
        points = x.new_empty(dilation, count, products, channels)
        for phase in range(dilation):
            tile = padded.as_strided(
                (count, size, channels),
                (m * dilation * channels, dilation * channels, 1),
                (first * m * dilation + phase) * channels,
            )
            torch.bmm(values.expand(count, -1, -1), tile, out=points[phase])
        multiplied = x.new_empty(dilation * count, products, out_channels)
        torch.bmm(points.flatten(0, 1).transpose(0, 1), transformed, out=multiplied.transpose(0, 1))
        for phase in range(dilation):
            there = made.as_strided(
                (count, m, out_channels),
                (m * dilation * out_channels, dilation * out_channels, 1),
                (first * m * dilation + phase) * out_channels,
            )
            torch.bmm(results.expand(count, -1, -1), multiplied.view(dilation, count, products, -1)[phase], out=there)
    made = made[:length]
    return made if bias is None else made.add_(bias)


def algorithm_for(conv: nn.Conv1d, length: int) -> Algorithm | None:
    """The fastest algorithm for `length` values, None where that is the direct one."""
    channels, taps = min(conv.in_channels, conv.out_channels), conv.kernel_size[0]
    if taps == 3 and channels >= CHANNELS_OF_THREE:
        found = toom_cook(4, 3, (0.0, 1.0, -1.0, 0.5, -0.5))
    elif 3 < taps <= MOST_TAPS and channels >= CHANNELS_OF_MORE:
        found = fourier(2 * taps + 2 if channels >= 512 else 4 * taps - 4, taps)
    else:
        return None
    return found if length >= LENGTH * len(found.kernel) else None


class ShortConv1d(nn.Conv1d):
    """`nn.Conv1d` that multiplies less where it can: wide layers in float32 on a CPU, without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, T] -> [B, O, T]."""
        if input.ndim == 3 and _plain(input, self.weight) and self.padding_mode == "zeros":
            algorithm = algorithm_for(self, input.shape[-1])
            if algorithm is not None:
                made = [correlate(row.T, self.weight, self.bias, self.dilation[0], algorithm) for row in input]
                return torch.stack(made).transpose(1, 2) if len(made) != 1 else made[0].T[None]
        return super().forward(input)


def _plain(*tensors: Tensor) -> bool:
    """Whether all are float32 on a CPU, and nothing is recorded, neither gradients nor a graph."""
    recorded = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return not recorded and all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors)


def shortened(network: Network) -> Network:
    """The network itself, whose convolutions multiply less from now on; weights and their names stay."""
    for layer in network.modules():
        if type(layer) is not nn.Conv1d or layer.stride != (1,) or layer.groups != 1 or layer.kernel_size[0] % 2 == 0:
            continue
        if layer.padding == (layer.dilation[0] * (layer.kernel_size[0] // 2),):  # results are as many as values
            layer.__class__ = ShortConv1d
    return network
