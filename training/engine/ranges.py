"""Ranges that settings of trainers share: several times what anybody needs, far from what takes all memory."""

from __future__ import annotations

from typing import Annotated

from sounding.utils.fields import Range, Text

Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1e4)]  # of a loss
Count = Annotated[int, Range(0, 10_000_000)]  # of what is drawn or kept
Steps = Annotated[int, Range(0, 1_000_000_000)]
Frames = Annotated[int, Range(4, 16_384)]  # of a mel
Scale = Annotated[float, Range(0, 16)]  # of a discriminator's widths
Temperature = Annotated[float, Range(1e-4, 100)]  # of a softmax
Seed = Annotated[int, Range(0, 2**63 - 1)]
Place = Annotated[str, Text(4096)]  # of a file or folder
