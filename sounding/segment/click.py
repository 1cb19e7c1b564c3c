"""The segmenter in the box: the starter's patch tower and the click decoder, a few megabytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..vision import PatchEncoder
from .base import Prepared, Segmentation, device_of, one_picture
from .network import STRIDES, ClickNetwork, Clicks, Embedding
from .prompt import Prompt

STEP = STRIDES[-1]  # sides of the network's picture are multiples of it
PASSES = 6  # clicks that are taken one after the other; further ones come together with the last
EMBEDDED = ("coarse", "middle", "fine", "keys", "raw_keys")


class ClickModule(nn.Module):
    """Tower and decoder as one, for whoever moves weights."""

    def __init__(self, patches: PatchEncoder, network: ClickNetwork):
        super().__init__()
        self.patches, self.network = patches, network


class ClickSegmenter:
    """Points and a box, by `sounding.segment.network`."""

    def __init__(self, patches: PatchEncoder, network: ClickNetwork, name: str = "starter"):
        self.name = name
        self.module: ClickModule = ClickModule(patches, network).eval()

    @torch.inference_mode()
    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`."""
        image = one_picture(image)
        patches, network = self.module.patches, self.module.network
        height, width = image.shape[1:3]
        pixels = image.movedim(-1, 1).to(device_of(network))
        inner = network_size((height, width), network.config.side)
        pixels = functional.interpolate(pixels, inner, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        pixels = (pixels - patches.mean.to(pixels)) / patches.std.to(pixels)
        embedding = network.embed(network.levels(patches.tower, pixels), pixels)
        return Prepared((height, width), {name: getattr(embedding, name).cpu() for name in EMBEDDED})

    @torch.inference_mode()
    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`. The score is how little the mask depends on its threshold, as SAM's stability."""
        prompt.check(prepared.size, self.name)
        network = self.module.network
        embedding = Embedding(**{k: v.to(device_of(network)) for k, v in prepared.tensors.items()})
        like = embedding.fine
        inner = (like.shape[-2] * STRIDES[0], like.shape[-1] * STRIDES[0])
        scale = torch.tensor([inner[1] / prepared.size[1], inner[0] / prepared.size[0]])
        points = torch.tensor([*prompt.positive, *prompt.negative]).reshape(1, -1, 2) * scale
        signs = torch.tensor([[1] * len(prompt.positive) + [-1] * len(prompt.negative)]).reshape(1, -1)
        box = torch.tensor([prompt.box or (0.0,) * 4]) * scale.repeat(2)
        if not signs.numel():  # a box alone
            points, signs = torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long)
        logits: Tensor | None = None
        for count in passes(signs.shape[1]):
            shown = Clicks(points[:, :count].to(like.device), signs[:, :count].to(like.device), box.to(like.device))
            logits, _ = network.decode(embedding, shown, logits)
        assert logits is not None
        logits = functional.interpolate(logits[:, None], prepared.size, mode="bilinear", align_corners=False)[0, 0]
        sure, possible = (logits > 1).sum(), (logits > -1).sum()
        return Segmentation.of(logits, float(sure / possible.clamp(min=1)))


def network_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width that a picture of `size` is brought to: its longer side to `side`, multiples of 32."""
    height, width = (max(STEP, round(extent * side / max(size) / STEP) * STEP) for extent in size)
    return height, width


def passes(count: int) -> list[int]:
    """How many of `count` clicks are shown in each pass: one more a time, as in training, and in the end all."""
    return [*range(1, min(count, PASSES)), count]
