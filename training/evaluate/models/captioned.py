"""A stand-in for AVC's encoders where none is at hand: a classifier of sounds, and a checkpoint's patches and captions.

A checkpoint with a text query embeds sentences and patches of images in one space. So a sound is embedded by what a
classifier takes it for, as the mean of its classes' captions by their probabilities; and an image by the mean of its
patches by the share that the mask covers of each. The file has the classifier, the patch encoder and the captions'
embeddings; `training.starter.evaluate.audiovisual` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import resample
from sounding.config import AudioConfig, PatchConfig
from sounding.encoders.patches import PatchEncoder, mask_to_grid
from sounding.utils.fields import Checked, Length, Text, from_dict, parse_json
from sounding.utils.files import replacing

from .classifier import Classifier

CAPTIONED = "sounding.captioned_classes"  # key of the header with `Captioned` as JSON


@dataclass(frozen=True)
class Captioned(Checked):
    """What the header says: the classes' captions, the patch encoder's configuration, and where both are from."""

    captions: Annotated[tuple[Annotated[str, Text(1000)], ...], Length(1, 100_000)]
    patches: PatchConfig
    checkpoint: Annotated[str, Text(200)]


class CaptionedClasses:
    """The stand-in as an `audiovisual.AudioVisualModel`."""

    metric, scale = "avc", 1.0
    rate, seconds = 16_000, 2.56  # as the classifier was trained

    def __init__(self, about: Captioned, classifier: Classifier, patches: PatchEncoder, captions: Tensor, name: str):
        """`captions` [classes, L] are the captions' embeddings."""
        self.about, self.classifier, self.patches, self.name = about, classifier.eval(), patches.eval(), name
        self.captions = functional.normalize(captions.float(), dim=-1)
        self.width = self.captions.shape[1]
        self.to_mel = MelSpectrogram(AudioConfig())

    @torch.inference_mode()
    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_sounds`."""
        logits = self.classifier(self.to_mel(resample(waveform, rate, self.rate)))
        return logits.softmax(dim=-1) @ self.captions

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_images`."""
        found = []
        for image, mask in zip(images, masks, strict=True):
            patches = functional.normalize(self.patches(image.movedim(0, -1)[None])[0].float(), dim=-1)  # [P, L]
            if mask is None:
                found.append(patches.mean(dim=0))
                continue
            cover = mask_to_grid(mask[None], (image.shape[1], image.shape[2]), self.about.patches)[0]
            if not cover.any():
                raise ValueError("Its mask covers nothing of what the patch encoder sees.")
            found.append(cover @ patches / cover.sum())
        return torch.stack(found)


def write_captioned(
    path: Path, about: Captioned, classifier: Classifier, patches: PatchEncoder, captions: Tensor
) -> None:
    """Write the stand-in's file in one step; `captions` [classes, L] are the embeddings.

    Raises:
        ValueError: other numbers of captions, embeddings and classes.
    """
    from safetensors.torch import save_file

    if not len(about.captions) == len(captions) == classifier.classes:
        raise ValueError(
            f"There are {len(about.captions)} captions, {len(captions)} embeddings and {classifier.classes} classes, "
            "but equal numbers are expected."
        )
    tensors = {
        "captions": captions,
        **{f"classifier.{name}": value for name, value in classifier.state_dict().items()},
        **{f"patches.{name}": value for name, value in patches.state_dict().items()},
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={CAPTIONED: json.dumps(asdict(about))})


def read_captioned(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, digest: str
) -> CaptionedClasses:
    """The stand-in from the tensors and the header of its file.

    Raises:
        ValueError: they do not belong together.
    """
    try:
        about: Captioned = from_dict(Captioned, parse_json(metadata[CAPTIONED]))
        parts = {
            part: {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            for part in ("classifier.", "patches.")
        }
        captions = state["captions"]
        if captions.shape != (len(about.captions), about.patches.width):
            raise ValueError(f"the captions' embeddings have shape {tuple(captions.shape)}")
        classifier = Classifier(len(about.captions), width=len(parts["classifier."]["body.0.weight"]))
        classifier.load_state_dict(parts["classifier."])
        patches = PatchEncoder(about.patches)
        patches.load_state_dict(parts["patches."])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is no classifier with captions ({said}); write one with `python -m training starter evaluate avc`."
        ) from None
    name = f"stand-in for AVC: classifier of {len(about.captions)} classes with the captions of {about.checkpoint}"
    return CaptionedClasses(about, classifier, patches, captions, f"{name}, {digest}")
