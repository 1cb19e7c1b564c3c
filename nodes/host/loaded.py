"""What the loading nodes output: a checkpoint, or a segmenter, whose weights the host moves between devices.

A node never moves weights itself. It names the parts that it needs, and gets the model with them on their devices:

    latents = model.on_device("grounding", "unet", batch=2, frames=512).sample(condition, noise)
    found = segmenter.segment(image, prompt)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sounding.checkpoint import read_header
from ...sounding.config import SoundingConfig
from ...sounding.cost import vocoder_values
from ...sounding.editing import Edit, edit_sound
from ...sounding.grounding import Condition
from ...sounding.loading import read_parts
from ...sounding.model import Sound, SoundingModel
from ...sounding.naming.names import Named
from ...sounding.networks.precision import is_large
from ...sounding.segment import Cache, Prompt, Segmentation, Segmenter
from ...sounding.video import Frame, VideoSound, sound_video
from .memory import AUTO, DTYPES, ManagedModule, devices_of, dtype_of, load_fully, unet_values

logger = logging.getLogger(__name__)


class LoadedModel:
    """A checkpoint with one patcher per part that has been used; parts that no node uses stay on disk.

    The host keeps only weak references to patchers, so they live exactly as long as this object, which travels between
    nodes and stays in the host's cache of outputs.
    """

    def __init__(self, path: Path, dtype: str = AUTO):
        """Open a checkpoint; its weights are read when parts are first used.

        Args:
            path: of the .safetensors file.
            dtype: of the weights: "auto", "fp32", "fp16" or "bf16".

        Raises:
            CheckpointError: see `sounding.loading.build`.
            ValueError: another dtype.
        """
        if dtype not in (AUTO, *DTYPES):
            raise ValueError(f"dtype is {dtype!r}, but one of {AUTO}, {', '.join(DTYPES)} is expected.")
        self._header, self._dtype = read_header(path), dtype
        self._large = is_large(self._header.shapes)
        self._model = SoundingModel.from_header(self._header, parts=())
        self._patchers: dict[str, ModelPatcher] = {}

    @property
    def config(self) -> SoundingConfig:
        """The checkpoint's configuration."""
        return self._model.config

    def on_device(self, *parts: str, batch: int = 0, frames: int = 0) -> SoundingModel:
        """The model with some parts on their devices; to be called before each use, since the host may move them away.

        Args:
            parts: names out of `sounding.config.PARTS`.
            batch: items that the work is for, so that the host frees memory for their activations as well.
            frames: mel frames per item.
        """
        memory = max(self.activation_bytes(part, batch, frames) for part in parts)
        load_fully([self.patcher(part) for part in parts], memory)
        return self._model

    def generate(self, *, image: Tensor, mask: Tensor, seconds: float, **settings: Any) -> Sound:
        """`SoundingModel.generate`, with each part brought to its device just before its use.

        Args:
            image: [B, H, W, 3] 0..1.
            mask: [B, H, W] 0..1.
            seconds: length of the sounds.
            settings: further keywords of `SoundingModel.generate`.

        Raises:
            ValueError: see `SoundingModel.generate`.
        """
        batch = max(len(mask), len(image))
        frames = self.config.latent_frames(seconds) * self.config.vae.stride

        def on_use(parts: tuple[str, ...]) -> None:
            self.on_device(*parts, batch=batch, frames=frames)

        return self._model.generate(image=image, mask=mask, seconds=seconds, on_use=on_use, **settings)

    def edit(self, sound: Tensor, rate: int, condition: Condition, edit: Edit, **settings: Any) -> Tensor:
        """`editing.edit_sound`, with each part brought to its device just before its use.

        Args:
            sound: [channels, samples].
            rate: in Hz.
            condition: one row.
            edit: which parts are made anew.
            settings: further keywords of `edit_sound`.

        Raises:
            ValueError: see `edit_sound`.
        """
        frames = self._model.window_frames

        def on_use(parts: tuple[str, ...]) -> None:
            self.on_device(*parts, batch=1, frames=frames)

        return edit_sound(self._model, sound, rate, condition, edit, on_use=on_use, **settings)

    def sound_video(self, frames: Iterable[Frame], frame_rate: float, **settings: Any) -> VideoSound:
        """`video.sound_video`, with each part brought to its device just before its use.

        Args:
            frames: of `frames_of`.
            frame_rate: frames per second.
            settings: further keywords of `sound_video`.

        Raises:
            ValueError: see `sound_video`.
        """
        window = self._model.window_frames

        def on_use(parts: tuple[str, ...]) -> None:
            self.on_device(*parts, batch=1, frames=window)

        return sound_video(self._model, frames, frame_rate, on_use=on_use, **settings)

    def name(self, image: Tensor, mask: Tensor | None, top: int) -> list[Named]:
        """`SoundingModel.name`: what each mask of an image shows.

        Args:
            image: [1, H, W, 3] 0..1.
            mask: [B, H, W] 0..1; None is the whole image.
            top: how many likely names are listed for each.

        Raises:
            ValueError: see `SoundingModel.name`.
        """
        if self.config.naming is None:  # the pack's own namer: small, and on the CPU
            return self._model.name(image.cpu(), None if mask is None else mask.cpu(), top=top)
        return self.on_device("patches", "naming").name(image, mask, top=top)

    def activation_bytes(self, part: str, batch: int, frames: int) -> float:
        """A generous upper bound of what a part's activations take for `batch` items of `frames` mel frames."""
        config = self.config
        frames = min(frames, self._model.window_frames)
        cells = frames * config.audio.mel_bands
        if part == "unet":
            values = unet_values(config, 2 * batch, cells / config.vae.stride**2)  # both halves of guidance
        elif part == "vae":
            values = batch * cells * config.vae.channels[0] * 12
        elif part == "vocoder":
            values = 12 * batch * vocoder_values(config, frames)
        else:
            return 0.0
        load_device, _ = devices_of(part)
        return float(values * dtype_of(part, load_device, self._dtype, large=self._large).itemsize)

    def patcher(self, part: str) -> ModelPatcher:
        """The part's patcher; its first use reads the part from disk."""
        if part not in self._patchers:
            load_device, offload_device = devices_of(part)
            dtype = dtype_of(part, load_device, self._dtype, large=self._large)
            self._model.build_late(self._header, part)
            read_parts(self._model, self._header, (part,), dtype=dtype, device=offload_device)
            logger.info("Sounding: read %s of %s", part, self._header.path)
            managed = ManagedModule(getattr(self._model, part))
            self._patchers[part] = ModelPatcher(managed, load_device=load_device, offload_device=offload_device)
        return self._patchers[part]

    def native_model(self) -> ModelPatcher:
        """The U-Net as the host's MODEL, a clone that other nodes may patch.

        From then on the U-Net's own patcher is of the same kind: a MODEL's clones share weights, and the host tells
        them apart when it loads one of them. Two patchers that know nothing of each other would each take the weights
        for theirs, and a LoRA of one would be heard in the other.
        """
        from .native_model import NativeModel, WholePatcher  # imports the host's model classes

        plain = self.patcher("unet")
        if not isinstance(plain, WholePatcher):
            plain.detach()
            window = self._model.window_frames // self.config.vae.stride
            native = NativeModel(self._model.unet, self.config, window, plain.offload_device)
            self._patchers["unet"] = WholePatcher(native, plain.load_device, plain.offload_device)
        return self._patchers["unet"].clone()


class LoadedSegmenter:
    """A segmenter whose weights the host moves, with the images that it encoded last (they stay on the CPU)."""

    def __init__(self, segmenter: Segmenter):
        """Take over `segmenter`, on the CPU. It stays in float32: SAM's own code expects that."""
        self._segmenter, self._cache = segmenter, Cache()
        self._patcher: ModelPatcher | None = None
        if segmenter.module is not None:
            load_device, offload_device = model_management.get_torch_device(), model_management.unet_offload_device()
            managed = ManagedModule(segmenter.module).to(offload_device)
            self._patcher = ModelPatcher(managed, load_device=load_device, offload_device=offload_device)

    def segment(self, image: Tensor, prompt: Prompt) -> Segmentation:
        """The mask of what a prompt selects in an image [1, H, W, 3]; for an image seen before only the decoder runs.

        Raises:
            ValueError: see `sounding.segment.Segmenter`.
        """
        if self._patcher is not None:  # before each use, since the host may have moved the weights away
            load_fully([self._patcher], self._segmenter.memory)
        return self._segmenter.segment(self._cache.prepare(self._segmenter, image), prompt)
