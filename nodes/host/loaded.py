"""What the loaders give to other nodes: a checkpoint or a segmenter whose weights the host moves between devices."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import comfy.model_management as host
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sounding.checkpoint import empty_model, read_header, read_parts
from ...sounding.config import SoundingConfig
from ...sounding.segment import Cache, Prompt, Segmentation, Segmenter
from .memory import AUTO, DTYPES, SoundingPart, _devices, load_whole, pick_dtype

logger = logging.getLogger(__name__)


class ModelHandle:
    """A model and one patcher a part that was used; parts that no node of the graph uses stay on disk.

    The host's list of loaded models holds patchers weakly, so they live exactly as long as this object, which
    travels on the wires and in the host's cache of outputs.
    """

    def __init__(self, path: Path, dtype: str = AUTO):
        """Open a checkpoint.

        Raises:
            CheckpointError: see `sounding.checkpoint.empty_model`.
            ValueError: `dtype` is not one of "auto", "fp32", "fp16" and "bf16".
        """
        if dtype not in (AUTO, *DTYPES):
            raise ValueError(f"dtype is {dtype!r}, but one of {AUTO}, {', '.join(DTYPES)} is expected.")
        self.header, self.dtype = read_header(path), dtype
        self.model = empty_model(self.header)
        self.patchers: dict[str, ModelPatcher] = {}

    @property
    def config(self) -> SoundingConfig:
        """What the checkpoint says of itself."""
        return self.model.config

    def use(self, parts: Iterable[str], memory: float = 0) -> None:
        """Bring parts to their devices; to be called before each use, since the host may have moved them.

        Args:
            parts: names out of `sounding.model.PARTS`.
            memory: bytes that the work itself will need.
        """
        load_whole([self._patcher(part) for part in parts], memory)

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
        return float(values * pick_dtype(self.dtype, part, _devices(part)[0]).itemsize)

    def _patcher(self, part: str) -> ModelPatcher:
        """The part's patcher; the first use reads the part from disk."""
        if part not in self.patchers:
            load, offload = _devices(part)
            read_parts(self.model, self.header, (part,), dtype=pick_dtype(self.dtype, part, load), device=offload)
            logger.info("Sounding: read %s of %s", part, self.header.path)
            holder = SoundingPart(getattr(self.model, part))
            self.patchers[part] = ModelPatcher(holder, load_device=load, offload_device=offload)
        return self.patchers[part]


class SegmenterHandle:
    """A segmenter whose weights the host moves, with the pictures that it last prepared (those lie on the CPU)."""

    def __init__(self, segmenter: Segmenter):
        """Take over `segmenter`, on the CPU. It stays in float32: SAM's own code expects that."""
        self.segmenter, self.cache = segmenter, Cache()
        self.patcher: ModelPatcher | None = None
        if segmenter.module is not None:
            load, offload = host.get_torch_device(), host.unet_offload_device()
            holder = SoundingPart(segmenter.module).to(offload)
            self.patcher = ModelPatcher(holder, load_device=load, offload_device=offload)

    def use(self, memory: float = 0) -> None:
        """Bring the weights to their device; to be called before each use, since the host may have moved them."""
        if self.patcher is not None:
            load_whole([self.patcher], memory)

    def segment(self, image: Tensor, prompt: Prompt) -> Segmentation:
        """One picture [1, H, W, 3] and a prompt; a picture seen before costs the decoder alone.

        Raises:
            ValueError: see `sounding.segment.Segmenter`.
        """
        self.use(self.segmenter.memory)
        return self.segmenter.segment(self.cache.prepare(self.segmenter, image), prompt)
