"""The machine and its packages: the accelerator, TF32, and whether what the settings ask is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from .settings import LoopConfig
from .tracking import tracker_names


def check_environment(loop: LoopConfig) -> None:
    """Look at what the settings need of this machine and its packages.

    Raises:
        ValueError: float16 without a GPU, or a tracker that is not installed.
    """
    if loop.precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ValueError("loop.precision is fp16, which needs a GPU, but there is none; set it to auto, bf16 or fp32.")
    tracker_names(loop.trackers)


def build_accelerator(loop: LoopConfig) -> Accelerator:
    """One process or, started by `accelerate launch`, several; the device is accelerate's choice.

    Raises:
        ValueError: see `check_environment`.
    """
    check_environment(loop)
    # accelerate keeps one precision per process, but stages of different ones run after each other.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=loop.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


@contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """Whether NVIDIA's GPUs take float32 numbers as TF32 (ten bits instead of 23), in matrix products and convolutions
    alike; None leaves both as they are.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if allowed is not None:
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        if allowed is not None:
            matmul.allow_tf32, cudnn.allow_tf32 = before
