"""Retrieve & Separate (section 4.1): a sound is retrieved by text, and the selected object's part separated from it.

The separator is that of *The Sound of Pixels* (Zhao et al., 2018): a U-Net splits the mixture's spectrogram into K
components, and the visual feature of an object says how much of each belongs to it. Here the feature is the mean of a
sounding model's patch embeddings within the object's mask. Differences: ratio masks instead of binary ones, a narrower
network on 128 log-spaced bands, since a small one is trained here (`training.starter.evaluate.separator`), and instead
of one number that is added to all logits, one per band that depends on the feature: the object's typical spectrum,
which few steps of training suffice to learn.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from sounding.audio.files import read_audio
from sounding.audio.resampling import fit_length
from sounding.checkpoint import check_header_size
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel
from sounding.utils.fields import Checked, Range, Text, from_dict, parse_json
from sounding.utils.files import replacing
from sounding.utils.messages import printable, shown
from sounding.weights.reading import read_state

from ..items import Item
from .baseline import Settings, read_item_image, read_item_mask, scene_caption
from .retrieval import Retrieval

RATE, FFT, HOP, BANDS = 16_000, 1024, 256, 128
STRIDE = 32  # of the U-Net, in bands and frames
KEY = "sounding.separator"  # of the file's header


@dataclass(frozen=True)
class SeparatorConfig(Checked):
    """Sizes: of the visual feature, the number of components, channels of the first stage; `encoder` names the
    sounding model whose patches the feature is of.
    """

    visual: Annotated[int, Range(1, 8192)]
    encoder: Annotated[str, Text(200)] = ""
    components: Annotated[int, Range(1, 256)] = 16
    width: Annotated[int, Range(4, 256)] = 16


class Separator(nn.Module):
    """Mixture and an object's visual feature to the object's share of each band and frame."""

    def __init__(self, config: SeparatorConfig):
        super().__init__()
        self.config = config
        widths = [config.width * scale for scale in (1, 2, 4, 4, 4)]
        self.down = nn.ModuleList(
            _Block(before, after, stride=2) for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        narrower = [*reversed(widths[:-1]), config.components]
        beside = [0, *reversed(widths[:-1])]  # channels that a skip connection adds
        self.up = nn.ModuleList(
            _Block(before + skipped, after, stride=1)
            for before, skipped, after in zip([widths[-1], *narrower[:-1]], beside, narrower, strict=True)
        )
        self.components = nn.Conv2d(narrower[-1], config.components, 3, padding=1)
        self.weights = nn.Sequential(
            nn.LayerNorm(config.visual), nn.Linear(config.visual, config.components), nn.Sigmoid()
        )
        self.scale = nn.Parameter(torch.ones(config.components))
        self.typical = nn.Sequential(nn.LayerNorm(config.visual), nn.Linear(config.visual, BANDS))

    def forward(self, bands: Tensor, visual: Tensor) -> Tensor:
        """Magnitudes [B, bands, T] of mixtures and features [B, L] -> logits of the share [B, bands, T]."""
        frames = bands.shape[-1]
        maps = functional.pad((1e-5 + bands).log()[:, None] / 5, (0, -frames % STRIDE))
        skipped = []
        for block in self.down:
            maps = block(maps)
            skipped.append(maps)
        skipped.pop()
        for number, block in enumerate(self.up):
            if number:
                maps = torch.cat([maps, skipped.pop()], dim=1)
            maps = block(functional.interpolate(maps, scale_factor=2.0))
        weights = self.weights(visual) * self.scale
        logits = torch.einsum("bk,bkft->bft", weights, self.components(maps)[..., :frames])
        return logits + self.typical(visual)[..., None]

    @torch.inference_mode()
    def separate(self, waveform: Tensor, visual: Tensor) -> Tensor:
        """The object's part of a mixture [samples] at 16 kHz, with the mixture's phase: [samples]."""
        spectrum = spectrum_of(waveform[None])
        share = self(to_bands(spectrum.abs()), visual[None]).sigmoid()
        full = torch.einsum("fb,nbt->nft", _bins_of_bands(), share)
        return torch.istft(spectrum * full, FFT, HOP, window=torch.hann_window(FFT), length=len(waveform))[0]


class _Block(nn.Sequential):
    """A convolution that halves (stride 2) or keeps the size, normalised."""

    def __init__(self, before: int, after: int, stride: int):
        size = 4 if stride == 2 else 3
        super().__init__(
            nn.Conv2d(before, after, size, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2),
        )


def spectrum_of(waveform: Tensor) -> Tensor:
    """Sounds [B, samples] at 16 kHz -> complex [B, 513, T]."""
    return torch.stft(waveform, FFT, HOP, window=torch.hann_window(FFT), return_complex=True)


def to_bands(magnitude: Tensor) -> Tensor:
    """[B, 513, T] -> means over log-spaced bands [B, 128, T]."""
    return torch.einsum("bf,nft->nbt", _bands_of_bins(), magnitude)


def _centres() -> Tensor:
    """Middles of the bands, in bins: from the first above 0 Hz to the last."""
    return torch.linspace(0, 1, BANDS).mul(torch.tensor(FFT / 2).log()).exp()


@lru_cache(maxsize=1)
def _bands_of_bins() -> Tensor:
    """[128, 513]: triangles about the middles, wide enough to reach a bin, of sum 1."""
    centres = _centres()
    reach = torch.diff(centres, append=centres[-1:] * 2 - centres[-2:-1]).clamp(min=1)
    weights = (1 - (torch.arange(FFT // 2 + 1) - centres[:, None]).abs() / reach[:, None]).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


@lru_cache(maxsize=1)
def _bins_of_bands() -> Tensor:
    """[513, 128]: interpolation between the two nearest bands; below the first middle the first band's value."""
    centres, bins = _centres(), torch.arange(FFT // 2 + 1).float().clamp(min=1)
    above = torch.searchsorted(centres, bins).clamp(1, BANDS - 1)
    share = ((bins - centres[above - 1]) / (centres[above] - centres[above - 1])).clamp(0, 1)
    weights = torch.zeros(len(bins), BANDS)
    rows = torch.arange(len(bins))
    weights[rows, above] = share
    weights[rows, above - 1] = 1 - share
    return weights


def visual_features(model: SoundingModel, image: Tensor, masks: Tensor) -> Tensor:
    """Of each mask [k, H, W] the mean of the image's patch embeddings within it: [k, L]."""
    size = (image.shape[1], image.shape[2])
    with torch.inference_mode():
        patches = model.see(image)[0].float().cpu()
        cover = mask_to_grid(masks, size, model.config.patches).float().cpu()
    return cover @ patches / cover.sum(dim=1, keepdim=True).clamp(min=1e-6)


def write_separator(path: Path, separator: Separator) -> None:
    """Write weights and sizes as a .safetensors file, in one step."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in separator.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(asdict(separator.config))})


def read_separator(path: Path, model: SoundingModel) -> Separator:
    """A separator for the patches of `model`.

    Raises:
        ValueError: no such file, another kind of file, or a separator for another model's patches.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(KEY)
        if said is None:
            raise ValueError("its header does not name one")
        config: SeparatorConfig = from_dict(SeparatorConfig, parse_json(said))
        separator = Separator(config)
        separator.load_state_dict(read_state(path))
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} is no separator ({printable(' '.join(str(error).split()), 200)}); write one with `python -m "
            "training starter evaluate separator`."
        ) from None
    if (config.visual, config.encoder) != (model.config.patches.width, model.config.name):
        raise ValueError(
            f"{path} separates by features of {shown(config.encoder)} ({config.visual} numbers), but the model is "
            f"{shown(model.config.name)} ({model.config.patches.width}); train one for this model."
        )
    return separator.eval().requires_grad_(False)


class RetrieveAndSeparate:
    """A sentence for the whole scene finds a sound, and the selected object's part of it is kept."""

    rate = RATE

    def __init__(self, retrieval: Retrieval, separator: Separator, model: SoundingModel, settings: Settings):
        self.retrieval, self.separator, self.model, self.settings = retrieval, separator, model, settings

    def generate(self, item: Item) -> Tensor:
        """See `Baseline.generate`. The retrieved sound is cut or padded with silence at its end."""
        samples = round(self.settings.seconds * RATE)
        found = fit_length(read_audio(self.retrieval.find(scene_caption(item)), RATE), samples)
        (visual,) = visual_features(self.model, read_item_image(item), read_item_mask(item))
        return self.separator.separate(found, visual)
