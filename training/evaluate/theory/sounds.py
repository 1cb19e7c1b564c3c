"""f and v of theorem 3.1: the model from the attention's output to a sound, and what a sound is worth.

`Sampled` is f, the MLP and the whole sampler. Its sounds s are latents [C, T, F], and its noise is fixed per query.

`Value` is v(s, i, m) = -|phi(s) - sum_k m_k r_k|. phi(s) is the latents' mean over time, times sqrt(T), which makes it
an orthogonal projection: v is 1-Lipschitz in s. r_k is what patch k should sound like: phi of the recordings of the
objects that cover it, by their shares, and the mean of all objects where there is none. As both m and p sum to 1, v is
Lipschitz in m, in the l1 norm, with the greatest |r_k - mean|. The theorem leaves v open; this one needs no trained
judge, and its Lipschitz constants are known. The best value is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sounding.diffusion import sample_latents
from sounding.grounding import match_norm
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from ...data.shard_format import SAMPLE_RATE
from ...data.waveforms import fill
from .queries import Query

CUTS = 2  # of every recording


class Sampled:
    """f of one query: outputs of the attention [B, d] -> latents [B, C, T, F]. It can be differentiated."""

    def __init__(
        self,
        model: SoundingModel,
        seed: int,
        *,
        seconds: float,
        steps: int,
        cfg: float,
        sampler: str,
        norm_matching: bool = False,
    ):
        self.model, self.steps, self.cfg, self.sampler = model, steps, cfg, sampler
        self.norm_matching = norm_matching
        self.noise = model.noise(seconds, [seed])

    def condition(self, attended: Tensor) -> Tensor:
        """[B, d] -> [B, D]: the MLP, and with `norm_matching` what `grounding.match_norm` makes of its results."""
        grounding = self.model.grounding
        condition: Tensor = grounding.mlp(attended)
        if self.norm_matching:
            usual = grounding.condition_mean, grounding.condition_length, grounding.condition_backdrop
            condition, _ = match_norm(condition, *usual, grounding.thresholds)
        return condition

    def __call__(self, attended: Tensor) -> Tensor:
        """f."""
        tokens = self.condition(attended)[:, None]
        return sample_latents(
            self.model.unet,
            self.noise.expand(len(tokens), -1, -1, -1),
            tokens,
            self.model.grounding.null_condition(len(tokens)).to(tokens),
            self.model.config.diffusion,
            steps=self.steps,
            cfg=self.cfg,
            sampler=self.sampler,
        )


def described(latents: Tensor) -> Tensor:
    """phi: latents [B, C, T, F] -> [B, C * F], never farther apart than the latents are."""
    return (latents.mean(dim=2) * latents.shape[2] ** 0.5).flatten(1)


class Value:
    """v, with the recordings of `data` as what objects should sound like.

    Attributes:
        centres: [objects, C * F] phi of each object's recordings.
        in_sound, in_mask: Lipschitz constants.
    """

    in_sound = 1.0

    def __init__(self, centres: Tensor):
        self.centres, self.mean = centres, centres.mean(dim=0)
        self.in_mask = float((centres - self.mean).norm(dim=1).max())

    @classmethod
    def of_recordings(cls, model: SoundingModel, data: ObjectSet, seconds: float) -> Value:
        """With recordings through the model's own VAE, cut or repeated to `seconds`."""
        samples, centres = round(seconds * SAMPLE_RATE), []
        for label, recording in enumerate(data.recordings):
            rng = np.random.default_rng([83, label])
            cuts = torch.stack([fill(recording, samples, rng) for _ in range(CUTS)])
            centres.append(described(model.encode(cuts).cpu()).mean(dim=0))
        return cls(torch.stack(centres).clone())

    def expected(self, query: Query, weights: Tensor) -> Tensor:
        """sum_k m_k r_k of weights [P]: [C * F]."""
        return (weights.float() @ query.contents.float()) @ (
            self.centres - self.mean
        ) + self.mean * weights.sum().float()

    def __call__(self, latents: Tensor, query: Query, weights: Tensor) -> float:
        """v of one sound [1, C, T, F] and one weighting [P]."""
        return -float((described(latents.cpu())[0] - self.expected(query, weights)).norm())

    def apart(self) -> float:
        """The mean distance between two objects, as a scale for values."""
        return float(torch.pdist(self.centres).mean())
