"""VGGish (Hershey et al., 2017), whose embeddings the paper's FAD is computed from.

As in frechet-audio-distance and AudioLDM-Eval: 128 numbers per 0.96 s before the last ReLU, without PCA and
quantisation, and every 0.96 s of every sound counts as one sample. Read from torchvggish's published file,
vggish-10086976.pth.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sounding.audio.resampling import fit_length, resample
from sounding.weights.reading import laid_out

from .loading import fitted
from .mel import kaldi_mel_filters

FRAME, HOP, FFT = 400, 160, 512  # samples at 16 kHz
BANDS, FRAMES = 64, 96  # of a window
OFFSET = 0.01  # added before the logarithm
WINDOW = FRAME + (FRAMES - 1) * HOP  # samples that a window's frames are computed from
STEP = FRAMES * HOP
MARK = "features.13.weight"  # a tensor of VGGish alone


class VGGish(nn.Module):
    """Waveforms to embeddings of windows; parts are named as in the published file."""

    rate = 16_000
    filters: Tensor
    hann: Tensor

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256, 512), hidden: int = 4096, width: int = 128):
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        before = 1
        for stage, after in enumerate(channels):
            for _ in range(1 if stage < 2 else 2):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(before * (FRAMES // 16) * (BANDS // 16), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
        )
        self.register_buffer("filters", kaldi_mel_filters(FFT, BANDS, 125, 7500, self.rate), persistent=False)
        self.register_buffer("hann", torch.hann_window(FRAME, device="cpu"), persistent=False)

    def windows(self, samples: int) -> int:
        """How many windows a sound of so many samples has; a shorter one than a window is padded with silence."""
        return max(1, 1 + (samples - WINDOW) // STEP)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> log-mel [B, windows, 96, 64]; what does not fill a window is left out."""
        count = self.windows(waveform.shape[1])
        waveform = fit_length(waveform, (count - 1) * STEP + WINDOW)
        frames = waveform.unfold(1, FRAME, HOP) * self.hann  # [B, T, frame]
        mel = torch.fft.rfft(frames, FFT).abs() @ self.filters
        return (mel + OFFSET).log().unflatten(1, (count, FRAMES))

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] at 16 kHz -> [B, windows, D]."""
        mel = self.spectrogram(waveform)
        maps = self.features(mel.flatten(0, 1)[:, None])  # [B * windows, C, 6, 4]
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1)).unflatten(0, mel.shape[:2])


class VGGishFeatures:
    """VGGish as a `features.FeatureModel` with several embeddings per sound; it has no classes."""

    seconds = 10.0
    classes: tuple[str, ...] = ()

    def __init__(self, network: VGGish, name: str):
        self.network, self.name = network.eval(), name
        self.rate, self.width = network.rate, network.width

    def windows(self, samples: int) -> int:
        """See `features.WindowedModel.windows`."""
        return self.network.windows(samples)

    @torch.inference_mode()
    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        """See `features.FeatureModel.embed`: [B, windows * 128], one window after the other."""
        return self.network(resample(waveform, rate, self.rate)).flatten(1)

    def logits(self, embeddings: Tensor) -> Tensor:
        """[B, 0]."""
        return embeddings[:, :0]


def read_vggish(state: dict[str, Tensor], path: Path, name: str) -> VGGishFeatures:
    """VGGish from the tensors of its file; those of PCA, which some copies have, are left out.

    Raises:
        WeightsError: the tensors are not those of a VGGish.
    """
    with laid_out(path):
        channels = tuple(len(state[f"features.{layer}.bias"]) for layer in (0, 3, 8, 13))
        hidden, width = len(state["embeddings.0.bias"]), len(state["embeddings.4.bias"])
        learned = {key: value for key, value in state.items() if not key.startswith("pproc.")}
        network = fitted(lambda: VGGish(channels, hidden, width), learned)
    return VGGishFeatures(network, name)
