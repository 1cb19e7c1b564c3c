"""Near variants of sounds: the inputs of the nodes that draw noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..sounding.diffusion import MAX_SEED, item_seeds
from ..sounding.segment.points import shown

STRENGTH = 0.3


def variation_inputs() -> list[io.Input]:
    """Seeds of variants, and how far they go."""
    return [
        io.String.Input(
            "variation",
            default="",
            optional=True,
            tooltip="Seeds of near variants: one number for all sounds (sound i takes it + i), or one per sound, such "
            "as 0, 12. 0, or nothing: the seed's own sound.",
        ),
        io.Float.Input(
            "variation_strength",
            default=STRENGTH,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="How far variants go from the seed's own sound: at 0 not at all, at 1 they are other sounds.",
        ),
    ]


def read_variations(value: Any, indices: Sequence[int]) -> list[int | None]:
    """A seed per sound, None where the sound stays as it is; `indices` are those of the sounds in their batch.

    Raises:
        ValueError: another count than 0, 1 or the number of sounds, or something that is no seed.
    """
    words = [word for word in re.split(r"[,;\s\[\]]+", str("" if value is None else value)[:10_000]) if word]
    for word in words:
        if not re.fullmatch(r"\d{1,20}", word) or int(word) > MAX_SEED:
            raise ValueError(
                f"variation has {shown(word)}, but seeds of 0 to {MAX_SEED} are expected; write one number, or one per "
                "sound, such as 0, 12."
            )
    numbers, sounds = [int(word) for word in words], len(indices)
    if len(numbers) not in (0, 1, sounds):
        raise ValueError(
            f"There are {len(numbers)} variations for {sounds} sounds, but one per sound (or one for all) is expected; "
            "write as many."
        )
    if len(numbers) == sounds:
        return [number or None for number in numbers]
    return list(item_seeds(numbers[0], indices)) if numbers and numbers[0] else [None] * sounds
