"""A loaded checkpoint whose parts the host's memory management moves between devices."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import comfy.model_management as host
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..sounding.checkpoint import load_model
from ..sounding.config import SoundingConfig
from ..sounding.model import PARTS, SoundingModel

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTO = "auto"


class SoundingPart(nn.Module):
    """Holds one part for the host, which assigns `device`: parts of diffusers have a read-only property there."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


class ModelHandle:
    """A model and one patcher a part.

    The host's list of loaded models holds patchers weakly, so they live exactly as long as this object, which
    travels on the wires and in the host's cache of outputs.
    """

    def __init__(self, model: SoundingModel, dtype: str = AUTO):
        """Take over `model` (on the CPU) and give each part its device and precision.

        Raises:
            ValueError: `dtype` is not one of "auto", "fp32", "fp16" and "bf16".
        """
        self.model = model
        self.patchers = {part: _patcher(part, getattr(model, part), dtype) for part in PARTS}

    @property
    def config(self) -> SoundingConfig:
        """What the checkpoint says of itself."""
        return self.model.config

    def use(self, parts: Iterable[str], memory: float = 0) -> None:
        """Bring parts to their devices; to be called before each use, since the host may have moved them.

        Args:
            parts: names out of `PARTS`.
            memory: bytes that the work itself will need.
        """
        patchers = [self.patchers[part] for part in parts]
        host.load_models_gpu(patchers, memory_required=memory, force_full_load=True)
        for patcher in patchers:
            # With --novram the host loads nothing that its own layers could stream in while they run. Ours are
            # plain layers: they have to be there as a whole.
            if patcher.loaded_size() < patcher.model_size():
                patcher.partially_load(patcher.load_device, 1e32)

    def memory(self, part: str, batch: int, frames: int) -> float:
        """Bytes that a part's activations take for `batch` items of `frames` mel frames: a generous bound."""
        config = self.config
        frames = min(frames, self.model.window_frames)
        cells = frames * config.audio.mel_bands
        if part == "unet":
            # Both halves of guidance; some 24 tensors of the first level live at once.
            values = 2 * batch * cells / config.vae.stride**2 * config.unet.channels[0] * 24
        elif part == "vae":
            values = batch * cells * config.vae.channels[0] * 12
        elif part == "vocoder":
            values = batch * frames * config.audio.hop * config.vocoder.initial_channels / 32 * 12
        else:
            return 0.0
        return float(values * self._bytes(part))

    def _bytes(self, part: str) -> int:
        """Bytes a value of a part."""
        return next(self.patchers[part].model.parameters()).element_size()


def load_handle(path: Path, dtype: str) -> ModelHandle:
    """Read a checkpoint from disk.

    Raises:
        CheckpointError: see `sounding.checkpoint.load_model`.
        ValueError: an unknown dtype.
    """
    if dtype not in (AUTO, *DTYPES):
        raise ValueError(f"dtype is {dtype!r}, but one of {AUTO}, {', '.join(DTYPES)} is expected.")
    handle = ModelHandle(load_model(path), dtype)
    logger.info("Sounding: read %s from %s", handle.config.name, path)
    return handle


def pick_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Precision on a device: float32 on the CPU, else the choice, or what the host finds good there."""
    if host.is_device_cpu(device):
        return torch.float32
    if choice != AUTO:
        return DTYPES[choice]
    if host.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if host.should_use_bf16(device) else torch.float32


def _patcher(part: str, module: nn.Module, dtype: str) -> ModelPatcher:
    if part in ("patches", "query"):
        load, offload = host.text_encoder_device(), host.text_encoder_offload_device()
    elif part in ("vae", "vocoder"):
        load, offload = host.vae_device(), host.vae_offload_device()
    else:
        load, offload = host.get_torch_device(), host.unet_offload_device()
    holder = SoundingPart(module).to(device=offload, dtype=pick_dtype(dtype, load))
    return ModelPatcher(holder, load_device=load, offload_device=offload)
