"""The segmenter in the box: the starter's patch tower and the click decoder, a few megabytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoders.patches import PatchEncoder
from ..images.resize import resized
from ..utils.threads import spins_adaptively
from .base import Frame, Prepared, Segmentation, device_of, one_image
from .network import STRIDES, ClickNetwork, Clicks, Embedding
from .prompt import Prompt
from .zoom import LEAST, zoom_frame

STEP = STRIDES[-1]  # sides of the network's image are multiples of it
PASSES = 6  # clicks that are taken one after the other; further ones come together with the last
MOST_CROPS = 8  # of an image that stay embedded
OUTSIDE = -4.0  # at most, what a part of the image does not show: 2 % that it is the object
PICTURE = "picture"
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

    @property
    def memory(self) -> int:
        """See `Segmenter.memory`: some 64 channels of half the size, a dozen at once."""
        return 4 * 12 * 64 * (self.module.network.config.side // 2) ** 2

    @torch.inference_mode()
    @spins_adaptively
    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`. The image itself is kept too, as sharp as `segment` can use it."""
        image = one_image(image)
        height, width = image.shape[1:3]
        pixels = image.movedim(-1, 1)
        share = min(1.0, self.module.network.config.side / (LEAST * max(height, width)))
        sharp = resized(pixels, (max(1, round(share * height)), max(1, round(share * width))))
        return Prepared((height, width), {**self._embed(pixels), PICTURE: (sharp * 255).round().to(torch.uint8).cpu()})

    @torch.inference_mode()
    @spins_adaptively
    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`: the object on the whole image, then in its part of it, if that is small.

        The score is how little the mask depends on its threshold, as SAM's stability.
        """
        prompt.check(prepared.size, self.name)
        whole = self._decode(prepared, prompt)
        answer = resized(whole[None, None], prepared.size)  # [1, 1, H, W]
        logits = answer[0, 0]
        frame = zoom_frame(whole, prompt, prepared.size)
        if frame is not None:
            x0, y0, x1, y1 = frame
            logits = logits.clamp(max=OUTSIDE)
            part = self._decode(self._zoomed_in(prepared, frame), within(prompt, frame), answer[..., y0:y1, x0:x1])
            logits[y0:y1, x0:x1] = resized(part[None, None], (y1 - y0, x1 - x0))[0, 0]
        sure, possible = (logits > 1).sum(), (logits > -1).sum()
        return Segmentation.of(logits, float(sure / possible.clamp(min=1)))

    def _embed(self, pixels: Tensor) -> dict[str, Tensor]:
        """[1, 3, h, w] 0..1 -> what `_decode` needs of it, on the CPU."""
        patches, network = self.module.patches, self.module.network
        pixels = pixels.to(device_of(network))
        size = (pixels.shape[-2], pixels.shape[-1])
        pixels = resized(pixels, network_size(size, network.config.side)).clamp(0, 1)
        pixels = (pixels - patches.mean.to(pixels)) / patches.std.to(pixels)
        embedding = network.embed(network.levels(patches.tower, pixels), pixels)
        return {name: getattr(embedding, name).cpu() for name in EMBEDDED}

    def _zoomed_in(self, prepared: Prepared, frame: Frame) -> Prepared:
        """A part of an image, embedded once."""
        known = prepared.zoomed.get(frame)
        if known is None:
            sharp = prepared.tensors[PICTURE]
            x0, y0, x1, y1 = frame
            rows, columns = (
                slice(int(a * kept / whole), max(int(a * kept / whole) + 1, round(b * kept / whole)))
                for a, b, kept, whole in zip((y0, x0), (y1, x1), sharp.shape[-2:], prepared.size, strict=True)
            )
            known = Prepared((y1 - y0, x1 - x0), self._embed(sharp[..., rows, columns] / 255))
            for oldest in list(prepared.zoomed)[: max(0, len(prepared.zoomed) + 1 - MOST_CROPS)]:
                prepared.zoomed.pop(oldest, None)
            prepared.zoomed[frame] = known
        return known

    def _decode(self, prepared: Prepared, prompt: Prompt, known: Tensor | None = None) -> Tensor:
        """Logits [h, w] at the network's resolution; `known` [1, 1, any, any] is an answer from before."""
        network = self.module.network
        embedding = Embedding(**{name: prepared.tensors[name].to(device_of(network)) for name in EMBEDDED})
        like = embedding.fine
        inner = (like.shape[-2] * STRIDES[0], like.shape[-1] * STRIDES[0])
        scale = torch.tensor([inner[1] / prepared.size[1], inner[0] / prepared.size[0]])
        points = torch.tensor([*prompt.positive, *prompt.negative]).reshape(1, -1, 2) * scale
        signs = torch.tensor([[1] * len(prompt.positive) + [-1] * len(prompt.negative)]).reshape(1, -1)
        box = torch.tensor([prompt.box or (0.0,) * 4]) * scale.repeat(2)
        if not signs.numel():  # a box alone
            points, signs = torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long)
        logits = None if known is None else resized(known, inner)[0]
        for count in passes(signs.shape[1]):
            shown = Clicks(points[:, :count].to(like.device), signs[:, :count].to(like.device), box.to(like.device))
            logits, _ = network.decode(embedding, shown, logits)
        assert logits is not None
        return logits[0]


def within(prompt: Prompt, frame: Frame) -> Prompt:
    """A prompt in the pixels of a part of the image that holds all that it selects; negative points elsewhere go."""
    x0, y0, x1, y1 = frame
    positive, negative = (
        tuple((x - x0, y - y0) for x, y in points if x0 <= x <= x1 and y0 <= y <= y1)
        for points in (prompt.positive, prompt.negative)
    )
    box = prompt.box and (prompt.box[0] - x0, prompt.box[1] - y0, prompt.box[2] - x0, prompt.box[3] - y0)
    return Prompt(positive, negative, box)


def network_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width that an image of `size` is brought to: its longer side to `side`, multiples of 32."""
    height, width = (max(STEP, round(extent * side / max(size) / STEP) * STEP) for extent in size)
    return height, width


def passes(count: int) -> list[int]:
    """How many of `count` clicks are shown in each pass: one more a time, as in training, and in the end all."""
    return [*range(1, min(count, PASSES)), count]
