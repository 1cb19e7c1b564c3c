"""Where modules run, in which precision, and how the host's memory management brings them there."""

from __future__ import annotations

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...sounding.config import SoundingConfig
from ...sounding.networks.codec import PRECISE, part_dtype
from ...sounding.networks.precision import AUTO, chosen_dtype
from ...sounding.networks.precision import PRECISIONS as DTYPES


class ManagedModule(nn.Module):
    """Wraps a module for the host, which assigns `device`: modules of diffusers have a read-only property there."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


def load_fully(patchers: list[ModelPatcher], memory: float = 0) -> None:
    """Have the host load modules onto their devices, each as a whole.

    Args:
        patchers: of the modules.
        memory: bytes that the work itself will need beside the weights.
    """
    model_management.load_models_gpu(patchers, memory_required=memory, force_full_load=True)
    for patcher in patchers:
        # With --novram the host loads only layers of its own classes, which fetch their weights while they run. Ours
        # are plain layers: their weights have to be on the device before they run.
        if patcher.loaded_size() < patcher.model_size():
            patcher.partially_load(patcher.load_device, 1e32)


def devices_of(part: str) -> tuple[torch.device, torch.device]:
    """The devices where a part of a `SoundingModel` runs, and where it waits."""
    if part in ("patches", "query", "naming"):  # naming compares with what patches gives
        return model_management.text_encoder_device(), model_management.text_encoder_offload_device()
    if part in ("vae", "vocoder"):
        return model_management.vae_device(), model_management.vae_offload_device()
    return model_management.get_torch_device(), model_management.unet_offload_device()


def dtype_of(part: str, device: torch.device, choice: str = AUTO, *, large: bool = False) -> torch.dtype:
    """Precision of a part on a device: the choice, or what the host finds good there.

    On the CPU it is float32, but bfloat16 for the U-Net where the processor is fast in it and it is chosen or `large`.

    VAE and vocoder follow the host's rules for VAEs, which a user can change (--fp32-vae and the like), but never run
    in bfloat16, whose errors are audible (--bf16-vae gives float32). Where float16 overflows in them,
    `SoundingModel.decode` and `vocode` repeat the work in float32.
    """
    if model_management.is_device_cpu(device):
        return chosen_dtype(part, torch.device("cpu"), choice, large=large)
    if choice != AUTO:
        return part_dtype(part, DTYPES[choice])
    if part in PRECISE:
        return part_dtype(part, model_management.vae_dtype(device, [torch.float16]))
    if model_management.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32


def unet_values(config: SoundingConfig, rows: int, cells: float) -> float:
    """A generous upper bound of the numbers that the U-Net's activations take, for rows of latents of `cells` each."""
    positions = cells / config.unet.patch_size**2
    return rows * positions * config.unet.channels[0] * 24  # some 24 tensors of the highest resolution at once
