"""The U-Net as the host's MODEL, so that its own samplers and schedulers can run it.

What is relied on of the host: `comfy.model_base.BaseModel` with `_apply_model`, `extra_conds` and `memory_required`,
`comfy.model_sampling`'s discrete schedules, and `ModelPatcher.partially_load`. Tests hold them to ComfyUI 0.3.75 and
0.33.0. Imported only when the node runs, as the host's model classes import much.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy import latent_formats, model_base, supported_models_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sounding.config import SoundingConfig
from ...sounding.multidiffusion import WindowedDenoiser
from ...sounding.utils.threads import adaptive_spinning
from .memory import unet_values

# diffusers' names of noise schedules, which the checkpoint's configuration uses, and the host's.
SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": model_base.ModelType.EPS, "v_prediction": model_base.ModelType.V_PREDICTION}


class NativeModel(model_base.BaseModel):
    """The host's model around our U-Net: noisy latents [B, 8, T/4, 16] and a condition [B, N, D] to denoised latents.

    Its parameters have diffusers' names, so LoRA files of this U-Net under such names fit; others change nothing.
    """

    def __init__(self, unet: nn.Module, config: SoundingConfig, window: int, device: torch.device):
        """Take over a U-Net.

        Args:
            unet: of `build_unet`.
            config: the checkpoint's.
            window: latent frames that the U-Net is given at once; longer latents are denoised in overlapping windows.
            device: where the U-Net is.
        """
        super().__init__(HostConfig(config), PREDICTIONS[config.diffusion.prediction], device)
        self.diffusion_model = unet
        self.config, self.window = config, window

    def _apply_model(self, x: Tensor, t: Tensor, *given: Any, c_crossattn: Any = None, **_: Any) -> Tensor:
        """Noisy latents, as the host's samplers scale them, and their sigmas [B] -> denoised latents, float32.

        The host gives the condition by position, as the second of `given`.
        """
        tokens = given[1] if len(given) > 1 else c_crossattn
        sampling, unet = self.model_sampling, self.diffusion_model
        noisy = sampling.calculate_input(t, x).to(unet.dtype)
        windowed = noisy.shape[2] > self.window
        denoiser = WindowedDenoiser(unet, self.window, self.window // 4) if windowed else unet
        with adaptive_spinning(x.device):
            predicted = denoiser(noisy, sampling.timestep(t).float(), encoder_hidden_states=tokens.to(noisy)).sample
        return sampling.calculate_denoised(t, predicted.float(), x)

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        """What the U-Net needs beside latents; called once per conditioning, before sampling starts.

        Raises:
            ValueError: the conditioning or the latent is another model's, or their numbers of rows do not fit.
        """
        self._check_latent(given["noise"])
        self._check_tokens(given.get("cross_attn"), len(given["noise"]))
        return super().extra_conds(**given)

    def _check_latent(self, noise: Tensor) -> None:
        channels, bands, shape = self.config.vae.latent_channels, self.config.latent_bands, tuple(noise.shape)
        if len(shape) != 4 or shape[1] != channels or shape[3] != bands:
            raise ValueError(
                f"The latent has shape {shape}, but [B, {channels}, frames, {bands}] is expected; connect Sounding "
                "Empty Latent, Sounding Encode Audio, or VAE Encode Audio with the vae of Sounding to Native Model."
            )

    def _check_tokens(self, tokens: Tensor | None, rows: int) -> None:
        width = self.config.grounding.condition_width
        if tokens is None or tokens.ndim != 3 or tokens.shape[-1] != width:
            shape = None if tokens is None else tuple(tokens.shape)
            raise ValueError(
                f"The conditioning has shape {shape}, but [B, N, {width}] is expected; connect the positive and "
                "negative of Sounding to Native Model, with the same model."
            )
        if rows % len(tokens):
            raise ValueError(
                f"The conditioning has {len(tokens)} selections, but the latent has {rows} rows; set batch_size of "
                f"Sounding Empty Latent to {len(tokens)}, or a multiple of it."
            )

    def memory_required(self, input_shape: list[int], cond_shapes: dict[str, Any] | None = None) -> float:
        """Bytes that a forward pass needs beside the weights, for latents of some shape."""
        # Called before `extra_conds` has looked at the latent, so any shape may come.
        cells = min(math.prod(input_shape[2:]), self.window * self.config.latent_bands)
        return unet_values(self.config, input_shape[0], cells) * self.diffusion_model.dtype.itemsize


class HostConfig(supported_models_base.BASE):
    """A checkpoint's configuration as the host's models have it: latents and noise schedule."""

    def __init__(self, config: SoundingConfig):
        super().__init__({"disable_unet_model_creation": True})
        self.latent_format = latent_formats.LatentFormat()  # which scales nothing: latents on wires are scaled already
        self.latent_format.latent_channels = config.vae.latent_channels
        diffusion = config.diffusion
        self.sampling_settings = {
            "beta_schedule": SCHEDULES[diffusion.beta_schedule],
            "linear_start": diffusion.beta_start,
            "linear_end": diffusion.beta_end,
            "timesteps": diffusion.train_steps,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> HostConfig:
        """The same: it never changes, and newer hosts' configurations cannot be copied by `copy`."""
        return self


class WholePatcher(ModelPatcher):
    """A patcher that loads its model as a whole or not at all.

    The host may leave a part of a model's layers on the CPU, where its own classes of layers fetch their weights while
    they run. diffusers' layers do not.
    """

    def partially_load(self, device_to: torch.device, extra_memory: float = 0, *args: Any, **more: Any) -> float:
        """Load everything, whatever memory the host grants."""
        return super().partially_load(device_to, max(extra_memory, 1e32), *args, **more)
