"""Models that hear sounds for the metrics, behind one small interface: embeddings, and logits if there are classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from sounding.checkpoint import CONFIG_KEY, check_header_size
from sounding.encoders.audio import ClapAudioQuery
from sounding.weights.reading import read_state, read_transformers

from .audiovisual import AudioVisualModel
from .models import clap, imagebind, openl3, panns, passt, vggish, wav2clip, yamnet
from .models.captioned import CAPTIONED, read_captioned
from .models.classifier import CLASSES, ClassifierFeatures, read_classifier
from .models.keras import is_keras
from .models.loading import digest

LEAST_SECONDS = 0.5  # what every model can embed


class FeatureModel(Protocol):
    """What metrics ask of a model."""

    name: str
    rate: int  # Hz of the sounds it expects
    seconds: float  # of a sound that suits it
    width: int  # D
    classes: tuple[str, ...]  # names; none where there are no logits

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """Sounds [B, samples] at `rate` Hz -> [B, D]."""

    def logits(self, embeddings: Tensor) -> Tensor:
        """What `embed` gave [B, D] -> [B, classes], before softmax; [B, 0] without classes."""


@runtime_checkable
class WindowedModel(FeatureModel, Protocol):
    """A feature model that embeds windows of a sound: `embed` gives [B, windows * D], one window after the other.

    Every window is a sample of FAD and KAD, as in the toolboxes.
    """

    def windows(self, samples: int) -> int:
        """How many windows a sound of so many samples at `rate` has."""


# Published weights by a tensor that only they have: what they are called, and how they are read.
PUBLISHED: dict[str, tuple[str, Callable[[dict[str, Tensor], Path, str], FeatureModel | AudioVisualModel]]] = {
    panns.WINDOW: ("PANNs CNN14", panns.read_panns),
    passt.MARK: ("PaSST", passt.read_passt),
    vggish.MARK: ("VGGish", vggish.read_vggish),
    **{mark: ("CLAP", clap.read_clap) for mark in clap.MARKS},
    imagebind.MARK: ("ImageBind", imagebind.read_imagebind),
    wav2clip.MARK: ("Wav2CLIP", wav2clip.read_wav2clip),
}


def open_features(path: Path) -> FeatureModel:
    """The model of sounds of a file, see `open_model`.

    Raises:
        ValueError: the file has none, or is damaged.
    """
    model = open_model(path)
    if isinstance(model, AudioVisualModel):
        raise ValueError(f"{path} has a model of sounds and images ({model.name}), but one of sounds is expected.")
    return model


def open_model(path: Path) -> FeatureModel | AudioVisualModel:
    """The model of a file: published weights, a classifier of `starter evaluate judge`, a checkpoint with a CLAP tower.

    Folders of `sounding fetch` are taken as well.

    Raises:
        ValueError: the file is none of them, or damaged.
    """
    path = _weights_in(path) if path.is_dir() else path
    metadata = {} if path.is_dir() else _metadata(path)
    if CLASSES in metadata:
        classifier, classes = read_classifier(read_state(path), metadata, path)
        return ClassifierFeatures(classifier, classes, f"classifier of {len(classes)} classes, {digest(path)}")
    if CAPTIONED in metadata:
        return read_captioned(read_state(path), metadata, path, digest(path))
    if CONFIG_KEY in metadata:
        import sounding

        query = sounding.load(path, device="cpu", parts=("query",)).query
        if isinstance(query, ClapAudioQuery):
            return clap.ClapFeatures(query, f"CLAP audio tower, {digest(path)}")
        raise ValueError(f"{path} has a text encoder, but a checkpoint with an audio query (clap_audio) is expected.")
    if path.suffix == ".onnx" and path.is_file():
        return yamnet.read_yamnet(path)
    if path.is_file() and is_keras(path):
        files = openl3.both_files(path)
        return openl3.read_openl3(*files, f"OpenL3 (env, linear, 512), {digest(*files)}")
    state = read_transformers(path) if path.is_dir() else read_state(path)
    for mark, (called, read) in PUBLISHED.items():
        if mark in state:
            return read(state, path, f"{called}, {digest(path)}")
    known = ", ".join(dict.fromkeys(called for called, _ in PUBLISHED.values()))
    raise ValueError(
        f"{path} is no model that hears sounds; give a classifier that `python -m training starter evaluate judge` "
        f"wrote, a checkpoint with an audio query, or published weights ({known}, OpenL3, YAMNet)."
    )


def _weights_in(folder: Path) -> Path:
    """The file of weights in a folder of `sounding fetch` or YAMNet's; the folder itself if it is one of transformers'.

    Raises:
        ValueError: several files could be meant.
    """
    files = [file for file in folder.iterdir() if file.suffix in (".pt", ".pth", ".h5", ".gz", ".onnx")]
    files = [file for file in files if "_image_" not in file.name]  # OpenL3's second one
    if len(files) > 1:
        raise ValueError(f"{folder} has {len(files)} files of weights, but one model is expected; name one of them.")
    return files[0] if files else folder


def _metadata(path: Path) -> dict[str, str]:
    """The header of a .safetensors file; nothing of other files."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is not a file, but a model's weights are expected; check the path.")
    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}
