"""PaSST (Koutini et al., 2022), a transformer over spectrogram patches with AudioSet's classes.

Read from its published file: passt-s-f128-p16-s10-ap.476-swa.pt is what the toolboxes use (through hear21passt), others
for 10 s at 32 kHz with a hop of 10 ms have the same parts. Embeddings are the mean of both class tokens, logits those
before the sigmoid. The blocks are timm's, from which PaSST's come.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sounding.utils.libraries import importing
from sounding.weights.reading import count, laid_out

from .loading import audioset_classes, fitted
from .mel import kaldi_mel_filters
from .tagger import Tagger

RATE, HOP, FRAME, FFT = 32_000, 320, 800, 1024
BANDS, LOW, HIGH = 128, 0, 15_000
PREEMPHASIS, OFFSET = 0.97, 1e-5
SHIFT, SCALE = 4.5, 5.0  # of log-mels: (x + SHIFT) / SCALE
PATCH, HEAD = 16, 64  # HEAD: channels per attention head
LONGEST = 320_000  # samples; positions are learned for 10 s
# (patches over frequency, patches over time) of the learned positions -> stride. Only these were trained at this hop.
STRIDES = {(12, 99): 10, (8, 62): 16}
MARK = "freq_new_pos_embed"  # a tensor of PaSST alone


class Passt(nn.Module):
    """Waveforms to embeddings; parts are named as in the published file."""

    filters: Tensor
    hann: Tensor

    def __init__(self, classes: int, width: int = 768, depth: int = 12, grid: tuple[int, int] = (12, 99)):
        super().__init__()
        with importing("timm"):
            from timm.models.vision_transformer import Block

        norm = partial(nn.LayerNorm, eps=1e-6)
        self.stride = STRIDES[grid]
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))  # of the two tokens
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, grid[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, grid[1]))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, self.stride)})
        self.blocks = nn.Sequential(
            *(Block(width, width // HEAD, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        self.head_dist = nn.Linear(width, classes)  # in the files, but not used for predictions
        self.register_buffer("filters", kaldi_mel_filters(FFT, BANDS, LOW, HIGH, RATE), persistent=False)
        window = torch.hann_window(FRAME, periodic=False, device="cpu")
        self.register_buffer("hann", window, persistent=False)

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """[B, samples] -> scaled log-mel [B, 128, T] of the power spectrum."""
        raised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        spectrum = torch.stft(raised, FFT, HOP, FRAME, self.hann, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return ((self.filters.T @ power + OFFSET).log() + SHIFT) / SCALE

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] at 32 kHz, of which 10 s are heard -> [B, D]."""
        mel = self.spectrogram(waveform[:, :LONGEST])
        patches = self.patch_embed["proj"](mel[:, None])  # [B, D, F, T]
        patches = patches + self.time_new_pos_embed[..., : patches.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        x = torch.cat([tokens.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self.norm(self.blocks(x))[:, :2].mean(dim=1)


class PasstFeatures(Tagger):
    """PaSST as a tagger; only the first 10 s of a sound are looked at."""

    def __init__(self, network: Passt, classes: tuple[str, ...], name: str):
        super().__init__(network, network.head, classes, name, RATE, network.head_dist.in_features)


def read_passt(state: dict[str, Tensor], path: Path, name: str) -> PasstFeatures:
    """PaSST from the tensors of its file; classes are called by AudioSet's CSV beside it, else by their numbers.

    Raises:
        WeightsError: the tensors are not those of a PaSST for 10 s.
        ValueError: the CSV is not AudioSet's class_labels_indices.csv.
    """
    with laid_out(path):
        grid = state[MARK].shape[2], state["time_new_pos_embed"].shape[3]
        if grid not in STRIDES:
            raise ValueError(f"positions are learned for {grid} patches, but {' or '.join(map(str, STRIDES))} of 10 s")
        width, depth, classes = len(state["norm.bias"]), count(state, "blocks."), len(state["head.1.bias"])
        network = fitted(lambda: Passt(classes, width, depth, grid), state)
    return PasstFeatures(network, audioset_classes(path, classes), name)
