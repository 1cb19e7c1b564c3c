"""OpenL3 (Cramer et al., 2019), of sounds and images, by which the paper's AVC is: env, linear spectrogram, 512.

As openl3 0.4 computes it with its own settings (the paper names no others): a window of 1 s every 0.1 s, the first
centred on the beginning; the mean over windows is compared with the image. The published files are Keras' weights, one
of sounds and one of images: openl3_audio_linear_env-v0_4_0.h5.gz and openl3_image_linear_env-v0_4_0.h5.gz.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio.resampling import resample
from sounding.weights import WeightsError
from sounding.weights.reading import laid_out

from .keras import read_keras
from .loading import fitted
from .pixels import check_aspect

RATE = 48_000
WINDOW, STEP = RATE, RATE // 10  # samples
FFT, HOP = 512, 242
LEAST_POWER, RANGE = 1e-10, 80.0  # of the decibels below the window's maximum
CROP, SHORTER = 224, 256  # pixels
WINDOWS = 8  # that are computed together
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
NAME = re.compile(r"openl3_(audio|image)_linear_env\b[-.\w]*")


class Tower(nn.Module):
    """Eight convolutions, the last one's maxima over the whole map; [B, channels, H, W] -> [B, D].

    In the tower of images, the second activation comes before its batch norm.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (64, 128, 256, 512), swapped: bool = False):
        super().__init__()
        self.swapped, self.width = swapped, widths[-1]
        sizes = [channels, *(width for width in widths for _ in range(2))]
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(size, eps=1e-3) for size in sizes[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.norms[0](x)
        for at, conv in enumerate(self.convs[:-1]):
            x, norm = conv(x), self.norms[at + 1]
            x = norm(x.relu()) if self.swapped and at == 1 else norm(x).relu()
            x = functional.max_pool2d(x, 2) if at % 2 else x
        return self.convs[-1](x).amax(dim=(2, 3))


def spectrogram(windows: Tensor) -> Tensor:
    """Windows [N, 48000] -> magnitudes [N, 1, 257, 197] in decibels below each window's maximum, at least -80."""
    hann = torch.hann_window(FFT, device=windows.device)
    magnitude = torch.fft.rfft(windows.unfold(1, FFT, HOP) * hann).abs()
    decibels = 10 * magnitude.clamp(min=LEAST_POWER).log10()
    decibels = (decibels - decibels.amax(dim=(1, 2), keepdim=True)).clamp(min=-RANGE)
    return decibels.transpose(1, 2)[:, None]


def to_windows(waveform: Tensor) -> Tensor:
    """[B, samples] -> [B, N, 48000]: the first is centred on the sound's beginning, the last padded with silence."""
    samples = WINDOW // 2 + waveform.shape[1]
    rest = -(samples - WINDOW) % STEP if samples > WINDOW else WINDOW - samples
    return functional.pad(waveform, (WINDOW // 2, rest)).unfold(1, WINDOW, STEP)


def to_pixels(image: Tensor) -> Tensor:
    """[3, H, W] 0..1 -> [3, 224, 224] as openl3 makes it from pixels of 8 bits.

    That is -1..1 for an image of 224 x 224 only, and 0..1 for all others, since its resizing takes it there. Those
    below 224 pixels, which openl3 refuses, are enlarged as larger ones are reduced.

    Raises:
        ValueError: see `pixels.check_aspect`.
    """
    height, width = check_aspect(image).shape[1:]
    shorter = min(height, width)
    if (height, width) == (CROP, CROP):
        return 2 * image - 1
    if CROP <= shorter <= SHORTER:  # neither resized nor scaled by openl3, but divided by the maximum
        image = image / image.amax().clamp(min=1e-12)
    else:
        height, width = (round(side * SHORTER / shorter) for side in (height, width))
        image = functional.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)[0]
    top, left = height // 2 - CROP // 2, width // 2 - CROP // 2
    return image[:, top : top + CROP, left : left + CROP]


class OpenL3:
    """Both towers as an `audiovisual.AudioVisualModel`; it knows no masks."""

    metric, scale = "avc", 1.0
    rate, seconds = RATE, 10.0

    def __init__(self, sounds: Tower, images: Tower, name: str):
        self.sounds, self.images, self.name = sounds.eval(), images.eval(), name
        self.width = sounds.width

    @torch.inference_mode()
    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_sounds`: the mean over windows."""
        windows = to_windows(resample(waveform, rate, RATE))
        made = [self.sounds(spectrogram(part)) for part in windows.flatten(0, 1).split(WINDOWS)]
        return torch.cat(made).unflatten(0, windows.shape[:2]).mean(dim=1)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_images`."""
        return torch.cat([self.images(to_pixels(image)[None]) for image in images])


def both_files(path: Path) -> tuple[Path, Path]:
    """The files of the sounds' and the images' tower, one of which is given and the other lies beside it.

    Raises:
        WeightsError: the name is not that of a published file, or the other one is missing.
    """
    found = NAME.fullmatch(path.name)
    if found is None:
        raise WeightsError(
            f"{path} holds Keras' weights, but only those of OpenL3 with a linear spectrogram are read; keep the names "
            "of its files, such as openl3_audio_linear_env-v0_4_0.h5.gz."
        )
    files = [path.with_name(path.name.replace(found[1], kind, 1)) for kind in ("audio", "image")]
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{file} is missing beside {path.name}; OpenL3 needs both (`sounding fetch openl3`).")
    return files[0], files[1]


def read_openl3(audio: Path, image: Path, name: str) -> OpenL3:
    """Both towers from their files.

    Raises:
        WeightsError: they are not Keras' weights of OpenL3.
    """
    return OpenL3(_read_tower(audio, 1), _read_tower(image, 3), name)


def _read_tower(path: Path, channels: int) -> Tower:
    layers = read_keras(path)
    with laid_out(path):
        convs, norms = ([layer for layer in layers if key in layer] for key in ("kernel", "gamma"))
        if ["gamma" in layer for layer in layers] != [True, False] * len(convs):
            raise ValueError("its layers are not batch norms and convolutions by turns")
        state: dict[str, Tensor] = {}
        for at, (norm, conv) in enumerate(zip(norms, convs, strict=True)):
            state[f"convs.{at}.weight"] = conv["kernel"].permute(3, 2, 0, 1).contiguous()
            state[f"convs.{at}.bias"] = conv["bias"]
            for ours, theirs in BATCH_NORM.items():
                state[f"norms.{at}.{ours}"] = norm[theirs]
            state[f"norms.{at}.num_batches_tracked"] = torch.tensor(0)
        widths = [len(layer["bias"]) for layer in convs[::2]]
        return fitted(lambda: Tower(channels, widths, swapped=channels == 3), state)
