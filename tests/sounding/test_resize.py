"""Resizing and sampling against torch's own on the CPU, and never by what other devices do wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from sounding.encoders.patches import to_square
from sounding.images.resize import cell_means, cell_peaks, resized, sampled

WRONG = ("_upsample_bilinear2d_aa", "adaptive_avg_pool2d", "adaptive_max_pool2d")  # on MPS, of some versions


class NotThere(TorchDispatchMode):
    """Fails where one of these runs on another device than the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        elsewhere = any(isinstance(one, Tensor) and one.device.type != "cpu" for one in args)
        if elsewhere:
            assert not any(name in str(func) for name in WRONG), func
        return func(*args, **kwargs)


def test_sampling_beyond_the_outermost_cells_gives_their_values() -> None:
    maps = torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    places = 3 * torch.rand(2, 1, 400, 2, generator=torch.Generator().manual_seed(1)) - 1.5
    corners = torch.tensor([[-1.0, -1], [1, 1], [-1, 1], [0, 0], [8 / 9, -4 / 5]]).expand(2, 1, -1, -1)
    places = torch.cat([places, corners], dim=2)
    expected = functional.grid_sample(maps, places, padding_mode="border", align_corners=False)
    torch.testing.assert_close(sampled(maps, places), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(7, 7), (31, 64), (200, 100)])
def test_on_the_cpu_it_is_torchs_own(size: tuple[int, int]) -> None:
    pixels = torch.rand(2, 3, 64, 100, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(resized(pixels, size), expected)
    assert torch.equal(cell_means(pixels, 9), functional.adaptive_avg_pool2d(pixels, 9))
    assert torch.equal(cell_peaks(pixels[:, 0], (9, 7)), functional.adaptive_max_pool2d(pixels[:, 0], (9, 7)))
    assert resized(pixels, (64, 100)) is pixels


@pytest.mark.parametrize(
    "run",
    [
        lambda device: to_square(torch.zeros(1, 3, 60, 80, device=device), 32, "squeeze"),
        lambda device: to_square(torch.zeros(1, 3, 60, 80, device=device), 32, "pad"),
        lambda device: cell_means(torch.zeros(1, 1, 60, 80, device=device), 7),
        lambda device: cell_peaks(torch.zeros(1, 60, 80, device=device), (9, 7)),
    ],
)
def test_nothing_that_mps_does_wrong_runs_there(run: Callable[[str], Tensor]) -> None:
    """With tensors that have a device and a shape alone, so that no such device is needed."""
    with FakeTensorMode(), NotThere():
        assert run("mps").device.type == "mps"
        with pytest.raises(AssertionError, match="upsample"):  # else this test could not fail
            functional.interpolate(torch.zeros(1, 3, 9, 9, device="mps"), (4, 4), mode="bilinear", antialias=True)


def test_what_is_not_resized_by_these_is_not_resized_so() -> None:
    """No other place in the library calls what MPS does wrong."""
    from pathlib import Path

    import sounding

    wrong = ("antialias=True", "adaptive_avg_pool", "adaptive_max_pool", 'padding_mode="border"')
    allowed = {"images/resize.py": wrong, "jobs/inputs.py": wrong[:1], "cli/demo.py": wrong[:1]}  # files, on the CPU
    library = Path(sounding.__file__).parent
    for path in library.rglob("*.py"):
        found = [word for word in wrong if word in path.read_text(encoding="utf-8")]
        assert set(found) <= set(allowed.get(path.relative_to(library).as_posix(), ())), path
