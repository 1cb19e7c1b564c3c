"""Wav2CLIP (Wu et al., 2022): sounds in CLIP's space, for the clip-score of ImageHear (Sheffer and Adi, 2023).

The score is 100 times the cosine of Wav2CLIP's embedding of the sound and that of the image by CLIP ViT-B/32. The
published file is Wav2CLIP.pt, CLIP's folder (`sounding fetch clip-b32`) lies beside it or beside its folder. The
authors' code scales a spectrogram by mean and deviation of its whole batch; here every sound is a batch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sounding.audio.resampling import resample
from sounding.convert.clip import read_clip
from sounding.encoders.patches import PatchEncoder
from sounding.utils.libraries import importing
from sounding.weights import WeightsError
from sounding.weights.reading import laid_out, under

from .loading import digest, fitted
from .pixels import clip_pixels

RATE, FFT, HOP, WIDTH = 16_000, 512, 353, 512
OFFSET, LEAST = 1e-7, 1e-9  # of powers before the logarithm, and of the deviation
CLIP, FOLDER = "ViT-B-32", "clip-b32"  # whose space Wav2CLIP's is; and where `sounding fetch` writes it
MARK = "audio_encoder.layer4.1.bn2.weight"  # a tensor of Wav2CLIP alone


class Wav2Clip(nn.Module):
    """A ResNet-18 over a spectrogram and two linear layers; parts are named as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        with importing("torchvision"):
            from torchvision.models import resnet18

        self.audio_encoder = resnet18(num_classes=1)
        self.audio_encoder.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self.audio_encoder.fc = nn.Identity()
        layers = (nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(), nn.Linear(WIDTH, WIDTH))
        self.audio_transform = nn.ModuleDict({"sequential": nn.Sequential(*layers)})

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] at 16 kHz -> [B, 512]."""
        return self.audio_transform["sequential"](self.audio_encoder(spectrogram(waveform)))


def spectrogram(waveform: Tensor) -> Tensor:
    """[B, samples] -> logarithms of powers [B, 1, 257, T], of mean 0 and deviation 1 for each sound."""
    hann = torch.hann_window(FFT, device=waveform.device)
    spectrum = torch.stft(waveform, FFT, HOP, window=hann, return_complex=True)
    found = ((spectrum.real.square() + spectrum.imag.square()) + OFFSET).log()
    mean, deviation = found.mean(dim=(1, 2), keepdim=True), found.std(dim=(1, 2), keepdim=True)
    return ((found - mean) / (deviation + LEAST))[:, None]


class ClipScore:
    """Wav2CLIP and CLIP's image tower as an `audiovisual.AudioVisualModel`; it knows no masks."""

    metric, scale = "cs", 100.0
    rate, seconds, width = RATE, 10.0, WIDTH

    def __init__(self, sounds: Wav2Clip, images: nn.Module, name: str):
        self.sounds, self.images, self.name = sounds.eval(), images.eval(), name

    @torch.inference_mode()
    def embed_sounds(self, waveform: Tensor, rate: int) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_sounds`."""
        return self.sounds(resample(waveform, rate, RATE))

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """See `audiovisual.AudioVisualModel.embed_images`."""
        pooled, _ = self.images(torch.stack([clip_pixels(image) for image in images]))
        return pooled


def read_wav2clip(state: dict[str, Tensor], path: Path, name: str) -> ClipScore:
    """Wav2CLIP from the tensors of its file, and CLIP from its folder; Wav2CLIP's other tensors are left out.

    Raises:
        WeightsError: the tensors are not those of Wav2CLIP, or CLIP ViT-B/32 is not there.
    """
    own = {key: value for key, value in state.items() if key.startswith(("audio_encoder.", "audio_transform."))}
    with laid_out(path):
        sounds = fitted(
            Wav2Clip, {key: value for key, value in own.items() if not key.startswith("audio_encoder.spectrogram.")}
        )
    folder = next((one for one in (path.parent / FOLDER, path.parent.parent / FOLDER) if one.is_dir()), None)
    if folder is None:
        raise WeightsError(
            f"There is no folder {FOLDER} beside {path} or its folder, but the clip-score needs CLIP's image tower; "
            f"run `sounding fetch {FOLDER}`."
        )
    converted = read_clip(folder)
    config = converted.config
    if getattr(config, "model", None) != CLIP:
        raise WeightsError(f"{folder} does not hold CLIP {CLIP}, whose space Wav2CLIP's is; fetch it again.")
    with laid_out(folder):
        images = fitted(lambda: PatchEncoder(config).tower, under(converted.tensors, "tower."))
    return ClipScore(sounds, images, f"{name}, with CLIP, {digest(folder)}")
