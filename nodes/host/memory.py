"""Where modules run, in which precision, and how the host's memory management brings them there."""

from __future__ import annotations

import comfy.model_management as host
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...sounding.networks.overflow import PRECISE, part_dtype

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTO = "auto"


class SoundingPart(nn.Module):
    """Holds one part for the host, which assigns `device`: parts of diffusers have a read-only property there."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


def load_whole(patchers: list[ModelPatcher], memory: float = 0) -> None:
    """Have the host bring modules to their devices, each as a whole."""
    host.load_models_gpu(patchers, memory_required=memory, force_full_load=True)
    for patcher in patchers:
        # With --novram the host loads nothing that its own layers could stream in while they run. Ours are
        # plain layers: they have to be there as a whole.
        if patcher.loaded_size() < patcher.model_size():
            patcher.partially_load(patcher.load_device, 1e32)


def pick_dtype(choice: str, part: str, device: torch.device) -> torch.dtype:
    """Precision of a part on a device: float32 on the CPU, else the choice, or what the host finds good there.

    VAE and vocoder follow the host's rules for VAEs, which a user can change (--fp32-vae and the like), but never take
    bfloat16, which would be heard (--bf16-vae is float32); float16 that overflows in them is mended by
    `SoundingModel.decode` and `vocode`.
    """
    if host.is_device_cpu(device):
        return torch.float32
    if choice != AUTO:
        return part_dtype(part, DTYPES[choice])
    if part in PRECISE:
        return part_dtype(part, host.vae_dtype(device, [torch.float16]))
    if host.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if host.should_use_bf16(device) else torch.float32


def _devices(part: str) -> tuple[torch.device, torch.device]:
    """Where a part works and where it waits."""
    if part in ("patches", "query"):
        return host.text_encoder_device(), host.text_encoder_offload_device()
    if part in ("vae", "vocoder"):
        return host.vae_device(), host.vae_offload_device()
    return host.get_torch_device(), host.unet_offload_device()
