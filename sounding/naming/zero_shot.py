"""Names of masked objects by CLIP alone: the image embedding of an object's crop against stored embeddings of names.

Zero-shot classification as in Radford et al. 2021 (section 3.1): cosines with the embeddings of all names, times the
logit scale, through a softmax. The names were embedded once, when the weights were converted (`convert.naming`), so
the text tower is not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batches import paired
from ..config import NamingConfig
from ..encoders.patches import PatchEncoder, check_image, check_mask, check_orientation, mask_to_grid
from ..utils.threads import adaptive_spinning
from .names import Labels, Named, named

BATCH = 16  # crops that are encoded at once
EMPTY = (
    "mask is empty, but it should cover the object that is to be named; paint or select something (a white mask "
    "selects the whole image)."
)


class ZeroShotNames(nn.Module):
    """The names that a checkpoint with a CLIP image tower can give.

    `embeddings` [rows, L] have unit length; `config.rows` says which name each of them stands for.
    """

    def __init__(self, config: NamingConfig, width: int):
        super().__init__()
        self.config = config
        self.labels = Labels(config.names, config.parents or (-1,) * len(config.names))
        self.embeddings = nn.Parameter(torch.zeros(len(config.rows), width), requires_grad=False)

    @torch.inference_mode()
    def name(
        self,
        encoder: PatchEncoder,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        patches: Tensor | None = None,
        top: int = 5,
    ) -> list[Named]:
        """What each mask shows, one result per mask; without masks, what each image shows.

        The crop of an object, encoded by itself, is what CLIP was trained on. Patches are there already where a sound
        is made as well, and need no further run of the tower, but CLIP's training gave them no embedding of their own.

        Args:
            encoder: the checkpoint's image tower.
            image: [1, H, W, 3] 0..1, or one per mask.
            mask: [B, H, W] 0..1, any resolution.
            patches: [1, P, L] or [B, P, L] of `encoder`, instead of an image.
            top: how many of the likeliest names are listed.

        Raises:
            ValueError: neither image nor patches, or both; an empty mask; numbers of rows that do not fit.
        """
        if (image is None) == (patches is None):
            raise ValueError("name got both or neither of image and patches, but one is expected; give one.")
        with adaptive_spinning(self.embeddings.device):
            if image is not None:
                embedded = embed_objects(encoder, image, mask, self.config.margin)
            else:
                embedded = pool_patches(encoder, cast(Tensor, patches), mask)
            return named(self.probabilities(embedded), self.labels, self.config.threshold, top)

    def probabilities(self, embedded: Tensor) -> Tensor:
        """Image embeddings [B, L] -> probabilities [B, names] float32 on the CPU.

        A row sums to 1, less the probability that there is no object at all (`config.rows` -1).
        """
        rows = torch.tensor(self.config.rows)
        shares = self.similarities(embedded).mul(self.config.scale).softmax(dim=-1)
        objects = rows >= 0
        summed = shares.new_zeros(len(embedded), len(self.config.names))
        return summed.index_add(1, rows[objects], shares[:, objects])

    def similarities(self, embedded: Tensor) -> Tensor:
        """Cosines of image embeddings [B, L] with all stored embeddings: [B, rows] float32 on the CPU."""
        stored = functional.normalize(self.embeddings.float(), dim=-1)
        return (functional.normalize(embedded.to(stored), dim=-1) @ stored.T).cpu()


def embed_objects(encoder: PatchEncoder, image: Tensor, mask: Tensor | None, margin: float) -> Tensor:
    """The tower's embedding of each masked object's crop, or of whole images without a mask: [B, L]."""
    image = check_image(image)
    pieces = list(image[:, None]) if mask is None else list(crops(image, check_mask(mask), margin))
    pixels = torch.cat([encoder.preprocess(piece) for piece in pieces])  # [B, 3, S, S]
    return torch.cat([class_embedding(encoder, some) for some in pixels.split(BATCH)])


def class_embedding(encoder: PatchEncoder, pixels: Tensor) -> Tensor:
    """Normalised [B, 3, S, S] -> the embedding of each whole image, as CLIP compares it with texts: [B, L]."""
    if encoder.config.tower == "vit":
        pooled, _ = encoder.tower(pixels.to(next(encoder.tower.parameters()).dtype))
        return cast(Tensor, pooled)
    return encoder.encode_pixels(pixels).mean(dim=1)  # a "timm" tower's average pooling, before or after its projection


def crops(image: Tensor, mask: Tensor, margin: float) -> Iterator[Tensor]:
    """The part of the image about each masked object: square where the image is large enough, never beyond it.

    Args:
        image: [1, H, W, 3], or one per mask.
        mask: [B, h, w], stretched over the image.
        margin: on each side, in sizes of the object (the longer one of its bounding box).

    Yields:
        [1, h, w, 3] per mask.

    Raises:
        ValueError: an empty mask, or one that is turned against its image; numbers that do not fit.
    """
    if len(image) not in (1, len(mask)):
        raise ValueError(
            f"There are {len(image)} images and {len(mask)} masks, but equal numbers (or one image) are expected."
        )
    height, width = image.shape[1:3]
    check_orientation((mask.shape[-2], mask.shape[-1]), (height, width))
    for number, one in enumerate(mask):
        if not one.max() > 0:
            raise ValueError(EMPTY)
        covered = one >= one.max() / 2
        rows, columns = (covered.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        top, bottom = (float(end) * height / one.shape[0] for end in (rows[0], rows[-1] + 1))
        left, right = (float(end) * width / one.shape[1] for end in (columns[0], columns[-1] + 1))
        side = (1 + 2 * margin) * max(bottom - top, right - left)
        y0, y1 = _placed((top + bottom) / 2, side, height)
        x0, x1 = _placed((left + right) / 2, side, width)
        yield image[number if len(image) > 1 else 0, y0:y1, x0:x1][None]


def _placed(middle: float, side: float, extent: int) -> tuple[int, int]:
    """Begin and end of `side` pixels about `middle`, moved or cut to lie within 0..extent."""
    length = max(1, min(extent, round(side)))
    first = max(0, min(round(middle - length / 2), extent - length))
    return first, first + length


def pool_patches(encoder: PatchEncoder, patches: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of patches [B, P, L], weighted by the share that a mask [B, H, W] covers of each: [B, L] float32.

    Raises:
        ValueError: an empty mask; numbers that do not fit.
    """
    if mask is None:
        return patches.float().mean(dim=1)
    mask = check_mask(mask)
    coverage = mask_to_grid(mask, (mask.shape[-2], mask.shape[-1]), encoder.config).to(patches.device)
    if (coverage.amax(dim=-1) <= 0).any():
        raise ValueError(EMPTY)
    patches, coverage = paired(patches, coverage, "masks")
    weights = coverage / coverage.sum(dim=-1, keepdim=True)
    return torch.einsum("bp,bpl->bl", weights.float(), patches.float())
