"""Convolutions that multiply less are the direct ones: exactly in their algebra, and to rounding in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sounding.networks.convolution import (
    LENGTH,
    Algorithm,
    ShortConv1d,
    algorithm_for,
    correlate,
    fourier,
    shortened,
    toom_cook,
)

POINTS = (0.0, 1.0, -1.0, 0.5, -0.5)


@pytest.mark.parametrize("algorithm", [fourier(16, 7), fourier(40, 11), fourier(8, 3), toom_cook(4, 3, POINTS)])
def test_each_algorithm_is_a_correlation(algorithm: Algorithm) -> None:
    taps, size = algorithm.kernel.shape[1], algorithm.values.shape[1]
    x, w = torch.randn(size, dtype=torch.float64), torch.randn(taps, dtype=torch.float64)
    made = algorithm.results @ ((algorithm.kernel @ w) * (algorithm.values @ x))
    torch.testing.assert_close(made, torch.conv1d(x[None, None], w[None, None])[0, 0], atol=1e-12, rtol=1e-12)
    assert len(algorithm.kernel) < taps * len(algorithm.results), "it multiplies no less"


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("length", [1, 50, 1003])  # less than a tile, a part of one, several lots of tiles
@pytest.mark.parametrize("taps", [3, 7, 11])
def test_tiles_are_one_convolution(taps: int, length: int, dilation: int) -> None:
    algorithm = toom_cook(4, 3, POINTS) if taps == 3 else fourier(2 * taps + 2, taps)
    x, bias = torch.randn(5, length, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    weight = torch.randn(4, 5, taps, dtype=torch.float64)
    expected = torch.conv1d(x[None], weight, bias, padding=dilation * (taps // 2), dilation=dilation)[0]
    made = correlate(x.T, weight, bias, dilation, algorithm)
    torch.testing.assert_close(made.T, expected, atol=1e-11, rtol=1e-11)


def wide(taps: int = 7, dilation: int = 3) -> tuple[nn.Conv1d, nn.Conv1d]:
    """A layer that multiplies less, and the same one as it was."""
    plain = nn.Conv1d(128, 128, taps, padding=dilation * (taps // 2), dilation=dilation).requires_grad_(False)
    short = nn.Sequential(nn.Conv1d(128, 128, taps, padding=dilation * (taps // 2), dilation=dilation))
    short[0].load_state_dict(plain.state_dict())
    return plain, shortened(short)[0]  # type: ignore[return-value]


def test_wide_layers_are_equal_to_rounding() -> None:
    plain, short = wide()
    assert isinstance(short, ShortConv1d)
    x = torch.randn(2, 128, LENGTH * 40)
    assert algorithm_for(short, x.shape[-1]) is not None
    with torch.no_grad():
        torch.testing.assert_close(short(x), plain(x), atol=1e-5, rtol=1e-5)
        assert not torch.equal(short(x), plain(x)), "the direct one ran"
        torch.testing.assert_close(short(x[:1]), plain(x[:1]), atol=1e-5, rtol=1e-5)


def test_everything_else_is_direct() -> None:
    plain, short = wide()
    x = torch.randn(1, 128, LENGTH * 40)
    assert torch.equal(short(x), plain(x)), "with gradients"
    with torch.no_grad():
        assert torch.equal(short(x[..., :100]), plain(x[..., :100])), "short"
        assert torch.equal(short.double()(x.double()), plain.double()(x.double())), "float64"
        assert short.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    odd = nn.ModuleList([nn.Conv1d(128, 128, 7), nn.Conv1d(128, 128, 4, padding=2), nn.Conv1d(128, 128, 7, 2, 3)])
    assert all(type(layer) is nn.Conv1d for layer in shortened(odd))
