"""Names of masked objects by the classes of an image classifier: the namer in the box.

The patch encoder's projection is the classifier's linear head: patches are logits of all classes, and their mean over
an object is what the head says to the mean of the object's features. Each object is cropped and encoded by itself,
and patches beside its mask do not count.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..encoders.patches import PatchEncoder, check_image, check_mask
from .config import NamingConfig
from .objects import crops, pool_patches
from .part import NamingPart


class ClassNames(NamingPart):
    """The names that a checkpoint with a classifier for an image tower can give; `config.rows` names its classes."""

    def __init__(self, config: NamingConfig, classes: int):
        super().__init__(config)
        if len(config.rows) != classes:
            raise ValueError(
                f"naming.rows has {len(config.rows)} values, but one per class of the image tower ({classes}) is "
                "expected."
            )
        self.bias = nn.Parameter(torch.zeros(classes), requires_grad=False)

    def embed(self, encoder: PatchEncoder, image: Tensor, mask: Tensor | None) -> Tensor:
        """Mean logits of each masked object's patches, or of whole images without a mask, less the bias: [B, L]."""
        image = check_image(image)
        if mask is None:
            pooled = [_pooled(encoder, one, None) for one in image[:, None]]
        else:
            found = crops(image, check_mask(mask), self.config.margin)
            pooled = [_pooled(encoder, piece, cover) for piece, cover in found]
        return cast(Tensor, encoder.tower.head(torch.cat(pooled)))

    def scores(self, embedded: Tensor) -> Tensor:
        """Logits of all classes: [B, rows]."""
        return (embedded.to(self.bias).float() + self.bias.float()).cpu()


def _pooled(encoder: PatchEncoder, image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean features [1, C] of what a mask covers: the head is linear, so it need not see every patch."""
    features = encoder.features(encoder.preprocess(image).to(next(encoder.tower.parameters()).dtype))
    return pool_patches(features, mask, encoder.config).to(features)
