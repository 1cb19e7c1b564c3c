"""Half precision where it holds, float32 where it overflows: the VAE and the vocoder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import SpeechT5HifiGan

logger = logging.getLogger(__name__)
Part = TypeVar("Part", bound=nn.Module)
PRECISE = ("vae", "vocoder")  # what bfloat16 is too rough for


def part_dtype(part: str, dtype: torch.dtype) -> torch.dtype:
    """The precision that a part gets where `dtype` is asked for: VAE and vocoder take float32 instead of bfloat16.

    Its 8 bits are an error of 1 in 256, to be heard as hiss: of the starter's sounds 19 dB below them, where float16
    stays at 41 dB.
    """
    return torch.float32 if part in PRECISE and dtype == torch.bfloat16 else dtype


def without_bfloat16(part: Part) -> Part:
    """The part itself, or a copy in float32 of one that somebody brought to bfloat16 after all (see `part_dtype`)."""
    if next(part.parameters()).dtype != torch.bfloat16:
        return part
    return nn.Module.float(copy.deepcopy(part))


def in_range(part: Part, run: Callable[[Part], Tensor]) -> Tensor:
    """`run(part)`, and once more in float32 if the part is in float16 and its numbers became too large for that.

    float16 ends at 65504. VAE and vocoder are trained in float32, and nothing bounds what their convolutions add up
    inside, so some weights (SDXL's VAE is the well-known case) pass that number on the way to ordinary results; then
    infinities meet and the result is no number. These parts run once a sound and are small beside the U-Net, so
    float32 costs little. The part itself stays as it is, since it may belong to a host that manages memory.
    """
    made = run(part)
    if next(part.parameters()).dtype != torch.float16 or bool(made.isfinite().all()):
        return made
    logger.info("%s overflows in float16; computing it in float32", type(part).__name__)
    return run(nn.Module.float(copy.deepcopy(part)))


def vocoded(vocoder: SpeechT5HifiGan, mel: Tensor) -> Tensor:
    """Log-mel [B, T, 64] -> waveform [B, T * hop], NaN where it overflowed.

    The last step, tanh, makes 1 of infinity, so what comes before it is looked at.
    """
    loud: list[Tensor] = []
    with vocoder.conv_post.register_forward_hook(lambda module, inputs, output: loud.append(output.isfinite().all())):
        waveform = vocoder(mel)
    return torch.where(loud[0], waveform, torch.nan)
