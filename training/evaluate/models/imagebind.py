"""ImageBind's towers of images and sounds (Girdhar et al., 2023), by which the paper's IB is (table 9).

As its authors' code computes it: three clips of 2 s, evenly over the sound, whose embeddings are averaged; the image by
CLIP's transform. The published file is imagebind_huge.pth (CC BY-NC-SA 4.0: no commercial use); its other towers are
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio.resampling import fit_length, resample
from sounding.weights.reading import count, laid_out

from .loading import fitted
from .mel import kaldi_mel_filters
from .pixels import SIZE, clip_pixels

RATE, CLIP, CLIPS = 16_000, 32_000, 3  # Hz; samples of a clip; clips of a sound
FRAME, HOP, FFT = 400, 160, 512
BANDS, FRAMES, LOW = 128, 204, 20  # LOW: Hz
PREEMPHASIS, FLOOR = 0.97, torch.finfo(torch.float32).eps
MEAN, STD = -4.268, 9.138  # of log-mels
PATCH, STRIDE = {"vision": 14, "audio": 16}, {"vision": 14, "audio": 10}
HEAD = {"vision": 80, "audio": 64}  # channels per attention head
GRID = {"vision": (SIZE // 14, SIZE // 14), "audio": (12, 19)}
MARK = "modality_trunks.vision.blocks.0.attn.in_proj_weight"  # a tensor of ImageBind alone
# Names of a tower's parts in the published file, and here.
PARTS = {
    "modality_preprocessors.{}.cls_token": "cls_token",
    "modality_preprocessors.{}.pos_embedding_helper.pos_embed": "positions",
    "modality_preprocessors.{}.rgbt_stem.proj.1.": "stem.",  # of images, whose stem is of two frames
    "modality_preprocessors.{}.rgbt_stem.proj.": "stem.",
    "modality_preprocessors.{}.rgbt_stem.norm_layer.": "stem_norm.",
    "modality_trunks.{}.pre_transformer_layer.0.": "before.",
    "modality_trunks.{}.blocks.": "blocks.",
    "modality_heads.{}.0.": "after.",
    "modality_heads.{}.2.": "head.",
}

_norm = partial(nn.LayerNorm, eps=1e-6)


class Block(nn.Module):
    """A transformer block with the norms before; towers of sounds have a learned key and value besides."""

    def __init__(self, width: int, heads: int, bias_kv: bool):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=bias_kv, batch_first=True)
        self.norm_1, self.norm_2 = _norm(width), _norm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, D] -> the same."""
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm_2(x))))


class Tower(nn.Module):
    """Images [B, 3, 224, 224] or log-mels [B, 1, 128, 204] to embeddings [B, L] of length 1."""

    def __init__(self, kind: str, width: int, depth: int, embedding: int):
        super().__init__()
        sound, (rows, columns) = kind == "audio", GRID[kind]
        self.stem = nn.Conv2d(1 if sound else 3, width, PATCH[kind], STRIDE[kind], bias=False)
        self.stem_norm = nn.LayerNorm(width) if sound else nn.Identity()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))
        self.before = nn.Identity() if sound else _norm(width)
        self.blocks = nn.Sequential(*(Block(width, width // HEAD[kind], sound) for _ in range(depth)))
        self.after, self.head = _norm(width), nn.Linear(width, embedding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = self.stem_norm(self.stem(x).flatten(2).transpose(1, 2))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        tokens = self.blocks(self.before(tokens))
        return functional.normalize(self.head(self.after(tokens[:, 0])), dim=-1)


def to_clips(waveform: Tensor) -> Tensor:
    """[B, samples] -> [B, 3, up to 32000]: the first, the middle and the last 2 s; a shorter sound three times."""
    spare = max(waveform.shape[1] - CLIP, 0)
    return torch.stack([waveform[:, at : at + CLIP] for at in (0, spare // 2, spare)], dim=1)


def spectrogram(clips: Tensor) -> Tensor:
    """Clips [N, samples] -> scaled log-mels [N, 1, 128, 204] of Kaldi's kind, padded with zeros before the scaling."""
    clips = clips - clips.mean(dim=1, keepdim=True)
    frames = clips.unfold(1, FRAME, HOP)[:, :FRAMES]
    frames = frames - frames.mean(dim=2, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    hann = torch.hann_window(FRAME, periodic=False, device=clips.device)
    power = torch.fft.rfft((frames - PREEMPHASIS * before) * hann, FFT).abs().square()
    filters = kaldi_mel_filters(FFT, BANDS, LOW, RATE // 2, RATE).to(clips.device)
    mel = (power @ filters).clamp(min=FLOOR).log().transpose(1, 2)
    return (fit_length(mel, FRAMES)[:, None] - MEAN) / STD


class ImageBind:
    """Both towers as an `audiovisual.AudioVisualModel`; it knows no masks."""

    metric, scale = "ib", 1.0
    rate, seconds = RATE, 10.0

    def __init__(self, sounds: Tower, images: Tower, name: str):
        self.sounds, self.images, self.name = sounds.eval(), images.eval(), name
        self.width = sounds.head.out_features

    @torch.inference_mode()
    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_sounds`: the mean over clips."""
        clips = to_clips(resample(waveform, rate, RATE))
        return self.sounds(spectrogram(clips.flatten(0, 1))).unflatten(0, clips.shape[:2]).mean(dim=1)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_images`."""
        return self.images(torch.stack([clip_pixels(image) for image in images]))


def read_imagebind(state: dict[str, Tensor], path: Path, name: str) -> ImageBind:
    """Both towers from the tensors of the published file.

    Raises:
        WeightsError: the tensors are not those of ImageBind.
    """
    with laid_out(path):
        return ImageBind(_tower(state, "audio"), _tower(state, "vision"), name)


def _tower(state: dict[str, Tensor], kind: str) -> Tower:
    own = {}
    for name, value in state.items():
        if f".{kind}." in name and not name.startswith("modality_postprocessors."):
            part = next((part for part in PARTS if name.startswith(part.format(kind))), None)
            own[name if part is None else PARTS[part] + name.removeprefix(part.format(kind))] = value
    if kind == "vision":
        own["stem.weight"] = own["stem.weight"].float().sum(dim=2)  # of an image that is shown twice
    width, depth, embedding = len(own["after.bias"]), count(own, "blocks."), len(own["head.weight"])
    return fitted(lambda: Tower(kind, width, depth, embedding), own)
