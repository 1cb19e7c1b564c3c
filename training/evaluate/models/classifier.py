"""A small audio classifier: the network, and its file.

It stands in for published classifiers where none is at hand; `training.starter.evaluate.classifier` trains it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sounding.audio.mel import MelSpectrogram
from sounding.audio.resampling import resample
from sounding.config import AudioConfig
from sounding.utils.fields import parse_json
from sounding.utils.files import replacing

CLASSES = "sounding.classes"  # key of the header with the names of the classes, a JSON list


class Classifier(nn.Module):
    """Log-mel [B, T, 64] -> logits [B, classes]; any length, pooled over time by mean and maximum."""

    def __init__(self, classes: int, width: int = 48):
        super().__init__()
        self.classes = classes
        widths = (width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        before = 1
        for channels in widths:
            layers += [
                nn.Conv2d(before, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            before = channels
        self.body = nn.Sequential(*layers)
        self.width = 2 * before * 4  # of what `embed` gives
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.width, classes))

    def embed(self, mel: Tensor) -> Tensor:
        """Log-mels [B, T, 64] of at least 16 frames -> what the logits are computed from: [B, 8 * widest].

        The level is taken out, so loudness does not count.
        """
        peak = mel.amax(dim=(1, 2), keepdim=True)
        maps = self.body(((mel - peak).clamp(min=-9) / 3 + 1)[:, None])  # [B, C, T/16, 4]
        return torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1).flatten(1)

    def forward(self, mel: Tensor) -> Tensor:
        """Logits of log-mels [B, T, 64]: [B, classes]."""
        return self.head(self.embed(mel))


class ClassifierFeatures:
    """The small classifier of a known list of objects: what its last layer sees, and its logits."""

    rate, seconds = 16_000, 2.56  # as it was trained

    def __init__(self, classifier: Classifier, classes: list[str], name: str):
        self.classifier, self.classes, self.name = classifier.eval(), tuple(classes), name
        self.width = classifier.width
        self.to_mel = MelSpectrogram(AudioConfig())

    @torch.inference_mode()
    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """See `features.FeatureModel.embed`."""
        return self.classifier.embed(self.to_mel(resample(waveform, rate, self.rate)))

    @torch.inference_mode()
    def logits(self, embeddings: Tensor) -> Tensor:
        """See `features.FeatureModel.logits`."""
        return self.classifier.head(embeddings)


def write_classifier(path: Path, classifier: Classifier, classes: Sequence[str]) -> None:
    """Write the weights and the names of the classes as a .safetensors file, in one step.

    Raises:
        ValueError: another number of names than classes.
    """
    from safetensors.torch import save_file

    if len(classes) != classifier.classes:
        raise ValueError(f"There are {len(classes)} names, but the classifier has {classifier.classes} classes.")
    tensors = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={CLASSES: json.dumps(list(classes))})


def read_classifier(state: dict[str, Tensor], metadata: dict[str, str], path: Path) -> tuple[Classifier, list[str]]:
    """A classifier and the names of its classes, from the tensors and the header of its file.

    Raises:
        ValueError: the names or tensors are not those of a classifier.
    """
    try:
        classes = parse_json(metadata[CLASSES])
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"{CLASSES} is not a list of names")
        classifier = Classifier(len(classes), width=len(state["body.0.weight"]))
        classifier.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is not a classifier ({said}); write one with `python -m training starter evaluate judge`."
        ) from None
    return classifier.eval(), classes
