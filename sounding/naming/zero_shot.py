"""Names of masked objects by CLIP alone: the image embedding of an object's crop against stored embeddings of names.

Zero-shot classification as in Radford et al. 2021 (section 3.1): cosines with the embeddings of all names, times the
logit scale, through a softmax. The names were embedded once, when the weights were converted (`convert.naming`), so
the text tower is not needed any more.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..batches import one_by_one
from ..encoders.patches import PatchEncoder, check_image, check_mask
from .config import NamingConfig
from .objects import crops
from .part import NamingPart

BATCH = 16  # crops that are encoded at once where batches gain time


class ZeroShotNames(NamingPart):
    """The names that a checkpoint with a CLIP image tower can give.

    `embeddings` [rows, L] have unit length; `config.rows` says which name each of them stands for.
    """

    def __init__(self, config: NamingConfig, width: int):
        super().__init__(config)
        self.embeddings = nn.Parameter(torch.zeros(len(config.rows), width), requires_grad=False)

    def embed(self, encoder: PatchEncoder, image: Tensor, mask: Tensor | None) -> Tensor:
        """The tower's embedding of each masked object's crop, or of whole images without a mask: [B, L]."""
        image = check_image(image)
        if mask is None:
            pieces = list(image[:, None])
        else:
            pieces = [piece for piece, _ in crops(image, check_mask(mask), self.config.margin)]
        pixels = torch.cat([encoder.preprocess(piece) for piece in pieces])  # [B, 3, S, S]
        batches = [some for (each,) in one_by_one(pixels) for some in each.split(BATCH)]
        return torch.cat([class_embedding(encoder, some) for some in batches])

    def scores(self, embedded: Tensor) -> Tensor:
        """Cosines of image embeddings [B, L] with all stored embeddings: [B, rows]."""
        stored = functional.normalize(self.embeddings.float(), dim=-1)
        directions = functional.normalize(embedded.to(stored), dim=-1)
        return torch.cat([one @ stored.T for (one,) in one_by_one(directions)]).cpu()


def class_embedding(encoder: PatchEncoder, pixels: Tensor) -> Tensor:
    """Normalised [B, 3, S, S] -> the embedding of each whole image, as CLIP compares it with texts: [B, L]."""
    if encoder.config.tower == "vit":
        pooled, _ = encoder.tower(pixels.to(next(encoder.tower.parameters()).dtype))
        return cast(Tensor, pooled)
    return encoder.encode_pixels(pixels).mean(dim=1)  # a "timm" tower's average pooling, before or after its projection
