"""Which precision parts get where nobody asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sounding
from sounding.config import PARTS
from sounding.networks import precision
from sounding.networks.precision import chosen_dtype, fast_bfloat16, is_large, own_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[False, True])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("kinds", [(), ("amx_tile",), ("avx512_bf16",)])
def test_torch_is_asked_what_the_processor_has(kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{kind}_supported", lambda has=kind in kinds: has, raising=False)
    assert fast_bfloat16() == bool(kinds)
    for kind in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{kind}_supported")  # as in older versions
    assert not fast_bfloat16()


def test_only_large_u_nets_are_bfloat16_by_themselves(fast: bool) -> None:
    half = torch.bfloat16 if fast else torch.float32
    assert own_dtype("unet", CPU, large=True) == half
    assert own_dtype("unet", CPU, large=False) == torch.float32
    assert {own_dtype(part, CPU, large=True) for part in PARTS if part != "unet"} == {torch.float32}
    assert own_dtype("unet", CUDA, large=False) == torch.float16
    assert own_dtype("unet", torch.device("mps"), large=True) == torch.float32


def test_choices(fast: bool) -> None:
    assert chosen_dtype("unet", CPU, "bf16", large=False) == (torch.bfloat16 if fast else torch.float32)
    assert chosen_dtype("patches", CPU, "bf16", large=True) == torch.float32
    assert chosen_dtype("unet", CPU, "fp16", large=True) == torch.float32
    assert chosen_dtype("unet", CPU, "fp32", large=True) == torch.float32
    assert chosen_dtype("unet", CUDA, "bf16", large=False) == torch.bfloat16
    assert chosen_dtype("vae", CUDA, "bf16", large=False) == torch.float32  # too coarse, see `codec.part_dtype`
    with pytest.raises(ValueError, match="precision is 'half'"):
        chosen_dtype("unet", CPU, "half", large=False)


def test_size_is_that_of_the_u_net() -> None:
    assert is_large({"unet.a": (10_000, 9_000), "unet.b": (10_000_000,)})
    assert not is_large({"unet.a": (10_000, 9_000), "vae.b": (10_000_000,)})


def test_a_model_is_loaded_so(tiny_checkpoint: Path, fast: bool) -> None:
    for dtype, unet in ((None, torch.float32), ("bf16", torch.bfloat16 if fast else torch.float32)):
        model = sounding.load(tiny_checkpoint, device="cpu", dtype=dtype)
        kinds = {part: next(getattr(model, part).parameters()).dtype for part in PARTS}
        assert kinds == {part: unet if part == "unet" else torch.float32 for part in PARTS}
    picture, mask = torch.rand(1, 32, 32, 3), torch.ones(1, 32, 32)
    assert model.generate(image=picture, mask=mask, seconds=0.2, steps=2).waveform.isfinite().all()


def test_a_dtype_of_integers_is_one_sentence(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype is torch.int8, but one of floating-point numbers is expected"):
        sounding.load(tiny_checkpoint, device="cpu", dtype=torch.int8)
