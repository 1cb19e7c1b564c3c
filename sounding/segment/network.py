"""The click decoder in the box: clicks, a box and the last answer over the patch tower's feature maps.

An image is embedded once (the tower and a neck over its levels); each click then costs the decoder alone. As in
RITM (Sofiiuk et al. 2021) clicks are drawn as discs and the last answer is an input. What a click means is also
told by how alike every place is to the clicked ones, in the tower's own features and in learned ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import PatchConfig, SegmenterConfig
from ..encoders.patches import timm_name
from ..images.resize import sampled
from ..utils.libraries import importing

STRIDES = (4, 8, 16, 32)
DISC, HALO = 1.5, 0.15  # radius of a click's disc in cells, and of its halo in shares of the longer side
PROMPT_MAPS = 6  # clicks' discs and halos for and against, box, last answer
SIMILAR_MAPS = 4  # two kinds of features, for and against


@dataclass(frozen=True)
class Clicks:
    """Prompts of a batch, in pixels of the network's image."""

    points: Tensor  # [B, K, 2] x, y
    signs: Tensor  # [B, K] 1 for, -1 against, 0 none
    boxes: Tensor  # [B, 4] x0, y0, x1, y1; all 0 is none


@dataclass(frozen=True)
class Embedding:
    """What an image is decoded from; sizes are 1/16, 1/8 and 1/4 of the network's image."""

    coarse: Tensor  # [B, widths[0], h/16, w/16]
    middle: Tensor  # [B, widths[1], h/8, w/8]
    fine: Tensor  # [B, widths[2], h/4, w/4]
    keys: Tensor  # [B, key_width, h/8, w/8] of unit length
    raw_keys: Tensor  # [B, C, h/16, w/16] of unit length, the tower's own


def tower_channels(config: PatchConfig) -> tuple[list[int], list[int]]:
    """Of the tower's levels at `STRIDES`: their places in timm's list, and their channels.

    Raises:
        ValueError: a tower without such levels.
    """
    with importing("timm"):
        import timm

    if config.tower == "timm":
        with torch.device("meta"):
            levels = timm.create_model(timm_name(config), num_classes=0).feature_info
        places = {level["reduction"]: place for place, level in enumerate(levels)}
        if all(stride in places for stride in STRIDES):
            return [places[s] for s in STRIDES], [levels[places[s]]["num_chs"] for s in STRIDES]
    raise ValueError(
        f"The patch tower is {config.model!r}, which has no feature maps at 1/4 to 1/32 of the image, but the "
        "segmenter needs them; leave segmenter out of the configuration."
    )


class ClickNetwork(nn.Module):
    """`embed` once per image, `decode` once a click."""

    def __init__(self, config: SegmenterConfig, patches: PatchConfig):
        super().__init__()
        self.config = config
        self.places, (c4, c8, c16, c32) = tower_channels(patches)
        coarse, middle, fine = config.widths
        self.from32 = nn.Conv2d(c32, coarse, 1)
        self.from16 = nn.Conv2d(c16, coarse, 1)
        self.from8 = nn.Conv2d(c8, middle, 1)
        self.from4 = nn.Conv2d(c4, fine, 1)
        self.from_pixels = nn.Conv2d(3 * 16, fine, 1)  # every 4 x 4 pixels as they are: edges are finer than cells
        self.down_to_8 = nn.Conv2d(coarse, middle, 1)
        self.down_to_4 = nn.Conv2d(middle, fine, 1)
        self.neck8, self.neck4 = Block(middle), Block(fine)
        self.to_keys = nn.Conv2d(middle, config.key_width, 1)
        self.prompt8 = nn.Conv2d(PROMPT_MAPS + SIMILAR_MAPS, middle, 3, padding=1)
        self.prompt4 = nn.Conv2d(PROMPT_MAPS, fine, 3, padding=1)
        self.to_16 = nn.Conv2d(middle, coarse, 1)
        self.blocks16, self.blocks8, self.blocks4 = (
            nn.Sequential(*(Block(width, 2**place) for place in range(count)))
            for width, count in zip(config.widths, config.blocks, strict=True)
        )
        self.decode8, self.decode4 = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.rough = nn.Conv2d(middle, 1, 1)
        self.sharp = nn.Conv2d(fine, 16, 3, padding=1)
        for weight in self.sharp.parameters():  # begins with the rough answer
            nn.init.zeros_(weight)

    def levels(self, tower: Any, pixels: Tensor) -> list[Tensor]:
        """Normalised [B, 3, h, w], sides divisible by 32 -> the tower's maps at `STRIDES`."""
        pixels = pixels.to(next(tower.parameters()).dtype)
        maps = tower.trunk.forward_intermediates(pixels, indices=self.places, intermediates_only=True)
        return cast("list[Tensor]", maps)

    def embed(self, levels: list[Tensor], pixels: Tensor) -> Embedding:
        """The tower's maps and the normalised image [B, 3, h, w] -> what clicks are decoded from."""
        dtype = self.from32.weight.dtype
        x4, x8, x16, x32 = (level.to(dtype) for level in levels)
        coarse = self.from16(x16) + _resized(self.from32(x32), x16)
        middle = self.neck8(self.from8(x8) + _resized(self.down_to_8(coarse), x8))
        blocks = functional.pixel_unshuffle(pixels.to(dtype), 4)
        fine = self.neck4(self.from4(x4) + self.from_pixels(blocks) + _resized(self.down_to_4(middle), x4))
        keys = functional.normalize(self.to_keys(middle).float(), dim=1)
        return Embedding(coarse, middle, fine, keys, functional.normalize(x16.float(), dim=1))

    def decode(self, embedding: Embedding, clicks: Clicks, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, h, w], and a rough form [B, h/8, w/8] of them that training also looks at.

        Args:
            embedding: of B images.
            clicks: of the same.
            last: logits [B, h, w] of the answer before the last click.
        """
        dtype = self.from32.weight.dtype
        maps8 = self._prompts(clicks, last, embedding.middle, 8)
        alike = [_alike(embedding.keys, clicks, 8), _resized(_alike(embedding.raw_keys, clicks, 16), maps8)]
        x8 = embedding.middle + self.prompt8(torch.cat([maps8, *alike], dim=1).to(dtype))
        x16 = self.blocks16(embedding.coarse + functional.avg_pool2d(self.to_16(x8), 2))
        x8 = self.blocks8(x8 + _resized(self.decode8(x16), x8))
        maps4 = self._prompts(clicks, last, embedding.fine, 4)
        x4 = embedding.fine + _resized(self.decode4(x8), embedding.fine) + self.prompt4(maps4.to(dtype))
        x4 = self.blocks4(x4)
        rough = self.rough(x8).float()
        sharp = functional.pixel_shuffle(self.sharp(x4).float(), 4)
        return (sharp + _resized(rough, sharp))[:, 0], rough[:, 0]

    def _prompts(self, clicks: Clicks, last: Tensor | None, like: Tensor, stride: int) -> Tensor:
        """[B, 6, h/stride, w/stride]."""
        height, width = like.shape[-2:]
        y = (torch.arange(height, device=like.device) + 0.5) * stride
        x = (torch.arange(width, device=like.device) + 0.5) * stride
        points = clicks.points[:, :, None, None]  # [B, K, 1, 1, 2]
        distance = ((x - points[..., 0]) ** 2 + (y[:, None] - points[..., 1]) ** 2).sqrt()  # [B, K, h, w]
        disc = torch.exp(-((distance / (DISC * stride)) ** 2))
        halo = torch.exp(-distance / (HALO * stride * max(height, width)))
        maps = []
        for sign in (1, -1):
            there = (clicks.signs == sign)[:, :, None, None]
            maps += [(shape * there).amax(dim=1) for shape in (disc, halo)]
        x0, y0, x1, y1 = (side[:, None, None] for side in clicks.boxes.T)
        maps.append(((x >= x0) & (x <= x1) & (y[:, None] >= y0) & (y[:, None] <= y1) & (x1 > x0)).float())
        if last is None:
            maps.append(torch.zeros_like(maps[0]))
        else:
            maps.append(functional.avg_pool2d(last.float().sigmoid()[:, None], stride)[:, 0])
        return torch.stack(maps, dim=1)


class Block(nn.Module):
    """A residual block (He et al. 2016, pre-activation form) of one 3 x 3 convolution."""

    def __init__(self, width: int, dilation: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same."""
        return cast(Tensor, x + self.conv(functional.relu(self.norm(x))))


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


def _alike(keys: Tensor, clicks: Clicks, stride: int) -> Tensor:
    """Cosine of every place to the nearest clicked one, for and against: [B, 2, h, w]; 0 without such clicks."""
    height, width = keys.shape[-2:]
    scale = torch.tensor([width * stride, height * stride], device=keys.device)
    places = clicks.points / scale * 2 - 1  # as grid_sample counts: -1..1 from edge to edge
    clicked = sampled(keys, places[:, None].to(keys))
    cosine = torch.einsum("bckp,bchw->bphw", clicked, keys)  # [B, K, h, w]
    maps = []
    for sign in (1, -1):
        there = (clicks.signs == sign)[:, :, None, None]
        best = cosine.masked_fill(~there, -1.0).amax(dim=1)
        maps.append(torch.where(there.any(dim=1), best, 0.0))
    return torch.stack(maps, dim=1)
