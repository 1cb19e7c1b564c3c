"""What `generate` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .grounding import Condition


@dataclass(frozen=True)
class Sound:
    """What a model made of selections in pictures: one row each."""

    waveform: Tensor  # [B, 1, samples] float32
    mel: Tensor  # [B, T, 64], the natural log of it as the VAE gave it, before the waveform was leveled
    condition: Condition  # one row a selection, which may have been made to sound several times
    sample_rate: int

    @property
    def sureness(self) -> Tensor:
        """How sure the model is of what it makes heard, one number a selection: [B], see `Condition`."""
        return self.condition.sureness
