"""Which precision a part runs in where nobody asks for one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .codec import part_dtype

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTO = "auto"
LARGE = 100_000_000  # weights of a U-Net; AudioLDM-S has 181 million, the starter 8 million


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, by AMX or AVX512-BF16.

    Those without take up to fifty times as long. torch says so from 2.6 on; before, the answer is no.
    """
    questions = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("amx_tile", "avx512_bf16"))
    return any(asked is not None and asked() for asked in questions)


def is_large(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the U-Net of a checkpoint, by the shapes of its tensors, is of full size."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("unet.")) >= LARGE


def own_dtype(part: str, device: torch.device, *, large: bool) -> torch.dtype:
    """The precision that suits a part: float16 on CUDA, float32 elsewhere.

    On processors that are fast in bfloat16, a large U-Net runs in it, for half the time. Small ones keep float32, so
    that their sounds stay what they were, and so does everything that is cheap beside the U-Net.
    """
    if device.type == "cuda":
        return torch.float16
    half = device.type == "cpu" and part == "unet" and large and fast_bfloat16()
    return torch.bfloat16 if half else torch.float32


def chosen_dtype(part: str, device: torch.device, choice: str, *, large: bool) -> torch.dtype:
    """The precision of a part for one of `PRECISIONS` or "auto". On a CPU, half precision is for the U-Net alone.

    There float16 is never fast, so it becomes float32, as bfloat16 does on processors without it.

    Raises:
        ValueError: another choice.
    """
    if choice != AUTO and choice not in PRECISIONS:
        raise ValueError(f"precision is {choice!r}, but one of {AUTO}, {', '.join(PRECISIONS)} is expected.")
    if choice == AUTO:
        return own_dtype(part, device, large=large)
    if device.type != "cpu":
        return part_dtype(part, PRECISIONS[choice])
    half = choice == "bf16" and part == "unet" and fast_bfloat16()
    return torch.bfloat16 if half else torch.float32
