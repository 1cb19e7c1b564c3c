"""Settings of the loop, and the ranges that settings of all tasks share: several times what anybody needs, far from
what takes all memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from sounding.utils.fields import Checked, Length, Range, Text

Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1e4)]  # of a loss
Count = Annotated[int, Range(0, 10_000_000)]  # of what is drawn or kept
Steps = Annotated[int, Range(0, 1_000_000_000)]
Frames = Annotated[int, Range(4, 16_384)]  # of a mel
Scale = Annotated[float, Range(0, 16)]  # of a discriminator's widths
Temperature = Annotated[float, Range(1e-4, 100)]  # of a softmax
Seed = Annotated[int, Range(0, 2**63 - 1)]
FilePath = Annotated[str, Text(4096)]  # of a file or folder
TrackerName = Annotated[str, Text(100)]
Beta = Annotated[float, Range(0, 1 - 1e-9)]  # of a running average


@dataclass(frozen=True)
class LoopConfig(Checked):
    """How long and how fast. The learning rate warms up and then stays or falls as a cosine to 2 % of its peak.

    `batch` is the whole batch of a step, over all processes and accumulated micro-batches. Give `steps` or
    `epochs`. `ema` 0 keeps no running average of the weights. `precision` "auto" is bf16 where that is fast
    (`fast_bf16`), else fp32; fp16 comes with a loss scaler. `tf32` lets NVIDIA's GPUs multiply float32 numbers with ten
    bits of their mantissa, which is faster; null leaves torch's own defaults (convolutions do, matrix products do not).
    `gradient_checkpointing` recomputes activations in the backward pass, which takes less memory and more time.
    `compile` fuses the small operations of a step; its first step takes minutes, and on a CPU it needs a C++ compiler.
    `optimizer` "muon" is for weights of two or more dimensions (`engine.muon`), with AdamW for the others; its learning
    rates are about four times as large as AdamW's.
    `trackers` names experiment trackers that accelerate knows and that are installed, or is "all" or "none".
    """

    batch: Annotated[int, Range(1, 1_000_000)]
    lr: Annotated[float, Range(0, 100)]
    steps: Steps = 0
    epochs: Annotated[float, Range(0, 1_000_000)] = 0.0
    accumulate: Annotated[int, Range(1, 65_536)] = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: Steps = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Annotated[float, Range(1e-30, 1)] = 1e-8
    weight_decay: Annotated[float, Range(0, 10)] = 0.0
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    seed: Seed = 0
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    ema: Beta = 0.0
    tf32: bool | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    keep: Annotated[int, Range(1, 10_000)] = 3
    save_minutes: Annotated[float, Range(0, 525_600)] = 5.0
    save_steps: Steps = 0  # as well as by time; 0 saves by time alone
    log_every: Annotated[int, Range(1, 1_000_000_000)] = 100
    trackers: TrackerName | Annotated[tuple[TrackerName, ...], Length(0, 20)] = "tensorboard"

    @property
    def mixed_precision(self) -> str:
        """`precision` as accelerate calls it, on this machine."""
        if self.precision == "auto":
            return "bf16" if fast_bf16() else "no"
        return "no" if self.precision == "fp32" else self.precision

    def length(self, items: int) -> int:
        """Steps of the run on a set of `items`.

        Raises:
            ValueError: neither or both of steps and epochs.
        """
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(
                f"loop has steps {self.steps} and epochs {self.epochs}, but one of the two is expected; set one to 0."
            )
        return self.steps or math.ceil(self.epochs * items / self.batch)


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32: NVIDIA's GPUs from Ampere on, and processors with
    AMX or AVX512-BF16.

    Processors without either take up to fifty times as long in bfloat16.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    questions = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("amx_tile", "avx512_bf16"))
    return any(asked is not None and asked() for asked in questions)
