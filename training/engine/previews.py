"""Previews: sounds that a model makes during its training, always of the same items with the same seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from sounding.audio.files import read_audio
from sounding.audio.mel import MelSpectrogram, normalize
from sounding.audio.resampling import fit_length
from sounding.images.files import read_image, read_mask
from sounding.utils.fields import Checked, Length, Range, Text

from .settings import FilePath, Steps

if TYPE_CHECKING:
    from sounding.config import SoundingConfig
    from sounding.model import SoundingModel


@dataclass(frozen=True)
class PreviewItem(Checked):
    """One sound: of what `mask` or `text` selects in `image` (without both, of the whole image), or of the recording
    `audio`, reconstructed. All but `text` are paths.
    """

    image: FilePath = ""
    mask: FilePath = ""
    text: Annotated[str, Text(2000)] = ""
    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    audio: FilePath = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.image) == bool(self.audio):
            raise ValueError(f"A preview has image {self.image!r} and audio {self.audio!r}, but one is expected.")
        if (self.mask and self.text) or (self.audio and (self.mask or self.text)):
            raise ValueError(
                f"A preview of {self.image or self.audio} has mask {self.mask!r} and text {self.text!r}, but an image "
                "takes one of them and a recording none; leave one out."
            )


@dataclass(frozen=True)
class Preview(Checked):
    """Settings of a recipe: what to preview, and every how many steps (0 is never).

    The checkpoint says how many sampling steps and how much guidance, where `steps` and `cfg` do not.
    """

    every: Steps = 0
    items: Annotated[tuple[PreviewItem, ...], Length(0, 1000)] = ()
    seconds: Annotated[float, Range(0.02, 3600)] = 5.0
    steps: Annotated[int, Range(1, 9_999)] | None = None
    cfg: Annotated[float, Range(0, 1000)] | None = None

    def due(self, step: int) -> bool:
        """Whether previews are wanted behind this step (counted as done)."""
        return bool(self.items) and self.every > 0 and step % self.every == 0


@dataclass(frozen=True)
class PreviewSound:
    """A sound to write: waveform [samples], its log-mel [T, bands], and a name without folder and ending."""

    name: str
    waveform: Tensor
    mel: Tensor
    sample_rate: int


def make_previews(model: SoundingModel, preview: Preview, *, vae: bool = True) -> list[PreviewSound]:
    """The preview's sounds, made by `model.generate` with the items' own seeds.

    Recordings go through encode, decode and vocode, and their mels are the decoded ones, so that a VAE can be
    judged by its spectrograms before there is a vocoder. With `vae=False` they go through the vocoder alone.
    The model's modes (train, eval) are as before afterwards.

    Raises:
        ValueError: a file cannot be read, or does not fit the model.
    """
    with _evaluating(model):
        return [
            _reconstructed(model, preview, item, _name(i, item), vae)
            if item.audio
            else _generated(model, preview, item, _name(i, item))
            for i, item in enumerate(preview.items, start=1)
        ]


def check_previews(config: SoundingConfig, preview: Preview) -> None:
    """Read what previews need, so that a file that is missing is known before the first step.

    Raises:
        ValueError: a file cannot be read, or the settings are out of their range.
    """
    config.latent_frames(preview.seconds)
    for item in preview.items:
        if item.audio:
            read_audio(item.audio, config.audio.sample_rate)
        else:
            read_image(item.image)
        if item.mask:
            read_mask(item.mask)


def _generated(model: SoundingModel, preview: Preview, item: PreviewItem, name: str) -> PreviewSound:
    image = read_image(item.image)
    mask = None
    if not item.text:
        mask = read_mask(item.mask) if item.mask else torch.ones(image.shape[:3])
    sound = model.generate(
        image=image,
        mask=mask,
        text=item.text or None,
        seconds=preview.seconds,
        steps=preview.steps,
        cfg=preview.cfg,
        seed=item.seed,
    )
    waveform = sound.waveform[0, 0].cpu()
    return PreviewSound(name, waveform, _mel(model, waveform), model.config.audio.sample_rate)


@torch.inference_mode()
def _reconstructed(model: SoundingModel, preview: Preview, item: PreviewItem, name: str, vae: bool) -> PreviewSound:
    rate = model.config.audio.sample_rate
    recording = read_audio(item.audio, rate)
    samples = min(len(recording), round(preview.seconds * rate))
    recording = recording[:samples]
    mel = model.decode(model.encode(recording[None])) if vae else _mel(model, normalize(recording))[None]
    waveform = model.vocode(mel, samples / rate)[0, 0]
    frames = model.config.mel_frames(samples / rate)
    return PreviewSound(name, waveform.cpu(), mel[0, :frames].cpu(), rate)


def _mel(model: SoundingModel, waveform: Tensor) -> Tensor:
    """[samples] -> [T, bands]; what is too short for one window is padded with silence."""
    settings = model.config.audio
    return MelSpectrogram(settings)(fit_length(waveform, max(len(waveform), settings.fft_size))[None])[0]


def _name(number: int, item: PreviewItem) -> str:
    """`2-street-dog`: number, image or recording, and what was selected, as a file's name."""
    parts = [Path(item.image or item.audio).stem, Path(item.mask).stem if item.mask else item.text]
    words = (re.sub(r"[^\w.]+", "_", part).strip("_")[:40] for part in parts)
    return "-".join([str(number), *(word for word in words if word)])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; modules that were in training mode (not all need be) go back to it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
