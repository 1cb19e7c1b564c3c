"""A U-Net over patches of the latents, and one whose layers the condition modulates, or both.

Transformers of latents see them in patches (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"); a
U-Net's first stage, which has most of the positions and the least to do, becomes cheaper likewise. What the condition
tells of the whole sound reaches every layer sooner when it shifts and scales normalised values (Dhariwal & Nichol 2021,
"Diffusion Models Beat GANs on Image Synthesis") than through attention alone.

A module of its own because its class derives from one of diffusers', which `build` imports only when it is needed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from ..utils.libraries import importing

with importing("diffusers"):
    from diffusers import UNet2DConditionModel


class VariedUNet(UNet2DConditionModel):
    """`diffusers.UNet2DConditionModel` between a rearrangement of `patch_size` x `patch_size` cells as channels and
    its inverse; it has `patch_size`^2 times the latents' channels. Where it embeds a class, that is the mean of the
    condition's tokens.
    """

    patch_size = 1

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **options: Any) -> Any:
        """Noisy latents [B, C, T, F], a step, condition [B, N, D] -> an object with `.sample` [B, C, T, F]."""
        if self.class_embedding is not None:
            options["class_labels"] = encoder_hidden_states.mean(dim=1)
        patches = functional.pixel_unshuffle(sample, self.patch_size)
        found = super().forward(patches, timestep, encoder_hidden_states, **options)
        found.sample = functional.pixel_shuffle(found.sample, self.patch_size)
        return found
