"""Sentence to sound: AudioLDM 1 and 2 by diffusers, and as a stand-in a sounding model that is asked by text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sounding.model import SoundingModel
from sounding.utils.libraries import importing
from sounding.utils.messages import printable, shown

from ...data.shard_format import read_json
from ..items import Item
from .baseline import Settings, item_seed, read_item_image, selected_caption

LIBRARIES = {"diffusers", "transformers", "audioldm2"}  # that parts of a pipeline may come from
MOST_INDEX = 2**20  # bytes


class TextToAudio(Protocol):
    """Sounds sentences."""

    rate: int

    def sound(self, text: str, image: Tensor, seed: int) -> Tensor:
        """A sentence to [samples]. `image` [1, H, W, 3] is for models that take one beside the text."""


class AudioLdm:
    """AudioLDM 1 or 2 (Liu et al., 2023; 2024): the pipeline of diffusers from a folder, with its own guidance."""

    def __init__(self, pipeline: Any, settings: Settings):
        self.pipeline, self.settings = pipeline, settings
        self.rate = int(pipeline.vocoder.config.sampling_rate)
        pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def sound(self, text: str, image: Tensor, seed: int) -> Tensor:
        """See `TextToAudio.sound`; the image is not looked at."""
        steps = {} if self.settings.steps is None else {"num_inference_steps": self.settings.steps}
        made = self.pipeline(
            text,
            audio_length_in_s=self.settings.seconds,
            generator=torch.Generator("cpu").manual_seed(seed % 2**63),
            output_type="pt",
            **steps,
        )
        return made.audios[0].float().cpu()


class SoundingByText:
    """A sounding model that is asked by text. It is no text-to-audio model: it looks for the text in the image."""

    def __init__(self, model: SoundingModel, settings: Settings):
        self.model, self.settings = model, settings
        self.rate = model.config.audio.sample_rate

    def sound(self, text: str, image: Tensor, seed: int) -> Tensor:
        """See `TextToAudio.sound`."""
        return sounded(self.model, self.settings, seed, image=image, text=text)


def sounded(model: SoundingModel, settings: Settings, seed: int, **selection: Any) -> Tensor:
    """What a sounding model makes of a selection, as the vocoder gives it: [samples].

    Args:
        selection: `image`, `mask` and so on, as `SoundingModel.generate` takes them.
    """
    sound = model.generate(
        **selection,
        seconds=settings.seconds,
        steps=settings.steps,
        cfg=settings.cfg,
        sampler=settings.sampler,
        seed=seed,
        level=False,
    )
    return sound.waveform[0, 0].cpu()


def read_audioldm(folder: Path, kind: str, device: torch.device) -> Any:
    """A pipeline from a folder in diffusers' form. Nothing is downloaded, and no code of the folder is run.

    Args:
        kind: the pipeline's class, "AudioLDMPipeline" or "AudioLDM2Pipeline".

    Raises:
        ValueError: another pipeline, parts of other libraries, or a damaged folder.
    """
    _check_index(folder, kind)
    with importing("diffusers"):
        import diffusers
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, torch_dtype=dtype)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder} cannot be read as {kind} ({printable(' '.join(str(error).split()), 300)}); fetch it again."
        ) from None
    if kind == "AudioLDM2Pipeline":
        pipeline.language_model = _generating(pipeline.language_model)
    return pipeline.to(device)


def _generating(language_model: Any) -> Any:
    """A GPT-2 that the pipeline can step with. Published folders hold the bare `GPT2Model`, which since version 4.50 of
    transformers lacks the methods for that; the head that is put on it has no part in the hidden states.
    """
    if hasattr(language_model, "_update_model_kwargs_for_generation"):
        return language_model
    with importing("transformers"):
        from transformers import GPT2LMHeadModel

    whole = GPT2LMHeadModel(language_model.config).to(language_model.dtype)
    whole.transformer = language_model
    whole.tie_weights()
    return whole.eval()


def _check_index(folder: Path, kind: str) -> None:
    """Whether the folder's index names the pipeline and only parts of known libraries."""
    try:
        index = read_json(folder / "model_index.json", MOST_INDEX)
        found = index.get("_class_name") if isinstance(index, dict) else None
        if found != kind:
            raise ValueError(f"it holds {shown(found)}")
        parts = [value for value in index.values() if isinstance(value, list)]
        foreign = sorted(str(part[0]) for part in parts if part and part[0] not in LIBRARIES | {None})
        if foreign:
            raise ValueError(f"parts of it are of {shown(foreign[0])}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no folder of {kind} ({printable(error, 200)}); give one that `save_pretrained` wrote, such "
            "as a download of cvssp/audioldm-s-full-v2 or cvssp/audioldm2."
        ) from None


class FromCaption:
    """Text to audio, from the caption of what is selected."""

    def __init__(self, audio: TextToAudio, settings: Settings):
        self.audio, self.settings, self.rate = audio, settings, audio.rate

    def generate(self, item: Item) -> Tensor:
        """See `Baseline.generate`."""
        return self.audio.sound(selected_caption(item), read_item_image(item), item_seed(self.settings, item))
