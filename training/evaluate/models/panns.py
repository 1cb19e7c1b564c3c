"""PANNs' CNN14 (Kong et al., 2020), the classifier that the paper and both toolboxes use, read from its published file.

Embeddings are what follows the first linear layer ("2048" of the toolboxes), logits those before the sigmoid. The
published files are Cnn14_mAP=0.431.pth (32 kHz) and Cnn14_16k_mAP=0.438.pth (16 kHz).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio.mel import mel_filters
from sounding.weights.reading import laid_out

from .loading import audioset_classes, fitted
from .tagger import Tagger

BANDS = 64
WINDOW = "spectrogram_extractor.stft.conv_real.weight"  # its size tells the rate
NOT_LEARNED = ("spectrogram_extractor.", "logmel_extractor.")  # computed here


@dataclass(frozen=True)
class FrontEnd:
    """Numbers of the log-mel spectrogram."""

    rate: int
    fft: int
    hop: int
    low: float
    high: float


FRONT_ENDS = {1024: FrontEnd(32_000, 1024, 320, 50, 14_000), 512: FrontEnd(16_000, 512, 160, 50, 8_000)}  # by FFT size


class Block(nn.Module):
    """Two convolutions with batch norm, and average pooling."""

    def __init__(self, before: int, after: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, T, F] -> [B, after, T / pool, F / pool]."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return functional.avg_pool2d(x, self.pool)


class Cnn14(nn.Module):
    """Waveforms to embeddings; parts are named as in the published files."""

    filters: Tensor
    window: Tensor

    def __init__(self, front_end: FrontEnd, classes: int, width: int = 64):
        super().__init__()
        self.front_end = front_end
        self.bn0 = nn.BatchNorm2d(BANDS)
        sizes = [1, *(width * 2**stage for stage in range(6))]
        for stage in range(6):
            block = Block(sizes[stage], sizes[stage + 1], 2 if stage < 5 else 1)
            self.add_module(f"conv_block{stage + 1}", block)
        self.fc1 = nn.Linear(sizes[-1], sizes[-1])
        self.fc_audioset = nn.Linear(sizes[-1], classes)
        filters = mel_filters(front_end.fft, BANDS, front_end.low, front_end.high, front_end.rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(front_end.fft, device="cpu"), persistent=False)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> log-mel [B, 1, T, 64] in dB of power."""
        spectrum = torch.stft(
            waveform,
            self.front_end.fft,
            self.front_end.hop,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        mel = spectrum.abs().square().transpose(1, 2) @ self.filters
        return 10 * mel.clamp(min=1e-10).log10()[:, None]

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] of at least 32 hops at the front end's rate -> [B, D]."""
        x = self.bn0(self.spectrogram(waveform).transpose(1, 3)).transpose(1, 3)
        for stage in range(6):
            x = self.get_submodule(f"conv_block{stage + 1}")(x)
        x = x.mean(dim=3)  # over bands
        return self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()


class PannsFeatures(Tagger):
    """CNN14 as a tagger."""

    def __init__(self, network: Cnn14, classes: tuple[str, ...], name: str):
        rate, width = network.front_end.rate, network.fc1.in_features
        super().__init__(network, network.fc_audioset, classes, name, rate, width)


def read_panns(state: dict[str, Tensor], path: Path, name: str) -> PannsFeatures:
    """CNN14 from the tensors of its file; classes are called by AudioSet's CSV beside it, else by their numbers.

    Raises:
        WeightsError: the tensors are not those of a CNN14 with a known front end.
        ValueError: the CSV is not AudioSet's class_labels_indices.csv.
    """
    with laid_out(path):
        size = state[WINDOW].shape[-1]
        if size not in FRONT_ENDS:
            raise ValueError(f"the window has {size} samples, but {' or '.join(map(str, FRONT_ENDS))} are expected")
        front_end, classes, width = FRONT_ENDS[size], len(state["fc_audioset.bias"]), len(state["conv_block1.bn1.bias"])
        learned = {key: value for key, value in state.items() if not key.startswith(NOT_LEARNED)}
        network = fitted(lambda: Cnn14(front_end, classes, width), learned)
    return PannsFeatures(network, audioset_classes(path, classes), name)
