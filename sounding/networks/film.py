"""AudioLDM's U-Net as published, with our call signature: the condition is added to the time embedding (FiLM).

A module of its own because its class derives from one of diffusers', which `build` imports only when it is needed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..utils.libraries import importing

with importing("diffusers"):
    from diffusers import UNet2DConditionModel


class FilmUNet(UNet2DConditionModel):
    """`diffusers.UNet2DConditionModel` with AudioLDM's `class_embeddings_concat` projection."""

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **options: Any) -> Any:
        """Noisy latents [B, C, T, F], a step, condition [B, 1, film_width] -> an object with `.sample`.

        Raises:
            ValueError: more than one condition token.
        """
        if encoder_hidden_states.shape[1] != 1:
            raise ValueError(
                f"The condition has {encoder_hidden_states.shape[1]} tokens, but a U-Net with FiLM takes 1; mix the "
                "sounds of several selections instead."
            )
        # Without hidden states the second attention of each block attends to the latents themselves.
        return super().forward(sample, timestep, None, class_labels=encoder_hidden_states[:, 0], **options)
