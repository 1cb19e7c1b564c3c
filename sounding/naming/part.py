"""The optional part of a checkpoint that names what masks show: what its two kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from ..encoders.patches import PatchEncoder
from ..utils.threads import adaptive_spinning
from .config import NamingConfig
from .names import Labels, Named, named
from .objects import pool_patches


class NamingPart(nn.Module, ABC):
    """Scores of rows (classes, or embeddings of names), each of which stands for a name."""

    def __init__(self, config: NamingConfig):
        super().__init__()
        self.config = config
        self.labels = Labels(config.names, config.parents or (-1,) * len(config.names))

    @abstractmethod
    def embed(self, encoder: PatchEncoder, image: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder makes of each masked object, or of whole images without a mask: [B, L]."""

    @abstractmethod
    def scores(self, embedded: Tensor) -> Tensor:
        """What `embed` or the mean of patches gives, [B, L] -> scores [B, rows] float32 on the CPU, not scaled yet."""

    def probabilities(self, embedded: Tensor, *, masked: bool = True) -> Tensor:
        """[B, L] -> probabilities [B, names] on the CPU; what a row lacks to 1 is the probability of none of them.

        `config.none_logit` is calibrated on masked objects, so it does not count where whole images are named.
        """
        scores = self.scores(embedded) * self.config.scale
        if masked and self.config.none_logit is not None:
            scores = torch.cat([scores, scores.new_full((len(scores), 1), self.config.none_logit)], dim=1)
        shares = scores.softmax(dim=-1)
        rows = torch.tensor(self.config.rows)
        objects = (rows >= 0).nonzero()[:, 0]
        return shares.new_zeros(len(shares), len(self.config.names)).index_add(1, rows[objects], shares[:, objects])

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

        From an image, each object is cropped and encoded by itself, which finds small objects as well as large ones.
        Patches are there already where a sound is made, too, and need no further run of the encoder.

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
        with adaptive_spinning(next(self.parameters()).device):
            if image is not None:
                embedded = self.embed(encoder, image, mask)
            else:
                embedded = pool_patches(cast(Tensor, patches), mask, encoder.config)
            probabilities = self.probabilities(embedded, masked=mask is not None)
            return named(probabilities, self.labels, self.config.threshold, top)
