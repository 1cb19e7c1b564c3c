"""The paper's core (section 3.2): a query asks the patches, or a mask answers in its place.

Training: `weights = softmax(Q K^T / sqrt(d_k))`, `condition = MLP(weights V)` (equations 3 and 4). Generation:
the weights are the object's mask, brought to the mean and variance that attention weights have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GenerationConfig, GroundingConfig

OWN = 0.25  # of a picture's own condition that stays where it says nothing
SURE = 0.5  # sureness from which on a selection counts as known: halfway between a checkpoint's own thresholds


def match_moments(coverage: Tensor, std: Tensor | float, *, clamp: bool = False) -> Tensor:
    """Shift and scale a mask on the patch grid to attention's statistics ("matching the mean and variance").

    Args:
        coverage: [B, P] share of each patch that the mask covers, or any score; not all zero.
        std: standard deviation that attention weights had in training, a number or [B, 1].
        clamp: cut negative weights off and renormalise the rest to sum 1 (changes the moments).

    Returns:
        [B, P] weights with mean 1/P and that (population) deviation; 1/P everywhere for a constant mask.

    Raises:
        ValueError: a mask is empty.
    """
    if (coverage.amax(dim=-1) <= 0).any():
        raise ValueError(
            "mask is empty, but it should cover the object that is to sound; paint or select something (a white "
            "mask selects the whole picture)."
        )
    return shift_and_scale(coverage, std, clamp=clamp)


def shift_and_scale(coverage: Tensor, std: Tensor | float, *, clamp: bool = False) -> Tensor:
    """`match_moments` without its checks, which wait for the device: for training."""
    coverage = coverage.float()
    centred = coverage - coverage.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
    # Rounding leaves a constant mask with a spread of 1e-8 or so; scaling that up would make noise of it.
    scaled = torch.where(spread > 1e-6, centred / spread.clamp(min=1e-6) * std, torch.zeros_like(centred))
    weights = scaled + 1 / coverage.shape[-1]
    if clamp:
        weights = weights.clamp(min=0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights


def match_length(
    condition: Tensor,
    mean: Tensor,
    length: Tensor,
    backdrop: Tensor | None = None,
    thresholds: GenerationConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Conditions that say little, made to say it as clearly as those of the training.

    Patches of a picture unlike those of the training are nearer to each other, and so their conditions are nearer
    to the mean one, where the U-Net was never trained. As masks are brought to attention's moments, these are brought
    to the usual distance from it: only outwards, in the direction that they have. Those of a mere backdrop say nothing:
    they become nearly what those of backdrops are on average, so that little of the objects before it is left in them,
    but enough that two pictures never have one condition.

    Args:
        condition: [B, D].
        mean: [D] of all conditions in training.
        length: of their differences from it, on average.
        backdrop: [D] difference of backdrops' conditions from it, on average. Without it, what is all but the mean is
            taken for one, and stays.
        thresholds: what is taken for nothing, and what for something; the defaults without them.

    Returns:
        The conditions, and how sure it is that they say something: [B], 0 (nothing) to 1.
    """
    given = thresholds or GenerationConfig()
    away = condition.float() - mean.float()
    size = away.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    share = size / length.float().clamp(min=1e-6)
    if backdrop is None:
        nothing, says = away, between(share, given.silent, given.clear)
        sureness = says
    else:
        behind = backdrop.float().expand_as(away)
        nothing = behind.lerp(away, OWN)
        says = between(functional.cosine_similarity(away, behind, dim=-1)[:, None], given.backdrop, given.object)
        sureness = says * between(share, given.short, given.long)  # photographs that are misheard are short
    clear = away * (1 / share).clamp(min=1)
    return (mean.float() + nothing.lerp(clear, says)).to(condition.dtype), sureness[:, 0]


def between(values: Tensor, nothing: float, all_of_it: float) -> Tensor:
    """How far values are on their way from one number, 0, to another, 1; a step between equal ones."""
    if nothing == all_of_it:
        return (values < nothing).to(values.dtype)
    return ((values - nothing) / (all_of_it - nothing)).clamp(0, 1)


@dataclass(frozen=True)
class Condition:
    """What the U-Net attends to, the weights it came from, and how sure the model is of it.

    `sureness` is 0 where the selection says no more than a mere backdrop does, and 1 where it clearly shows something
    that the model knows; of a text also how near it is to known names. It is measured by the distance and direction of
    the condition from the mean one, as masks and texts have it alike. Checkpoints without `grounding.match_length` do
    not measure that and give 1.
    """

    tokens: Tensor  # [B, N, D]
    weights: Tensor  # [B, P]
    sureness: Tensor  # [B] float, 0..1

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        return Condition(self.tokens.to(device), self.weights.to(device), self.sureness.to(device))

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """All rows of several conditions of one model, in their order."""
        return Condition(
            torch.cat([one.tokens for one in conditions]),
            torch.cat([one.weights for one in conditions]),
            torch.cat([one.sureness for one in conditions]),
        )

    def attention_map(self, size: tuple[int, int]) -> Tensor:
        """Weights as a picture: [B, *size], bilinear between patches, each scaled to 0..1 (figure 4)."""
        side = round(self.weights.shape[-1] ** 0.5)
        grid = self.weights.float().cpu().unflatten(-1, (side, side))[:, None]
        full = nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)[:, 0]
        low, high = full.amin(dim=(1, 2), keepdim=True), full.amax(dim=(1, 2), keepdim=True)
        return (full - low) / (high - low).clamp(min=1e-8)


class Grounding(nn.Module):
    """Attention of one query over patches, with every variant of the paper's ablations (table 3)."""

    weight_std: Tensor
    weight_count: Tensor
    condition_mean: Tensor  # [D]
    condition_length: Tensor
    condition_backdrop: Tensor | None  # [D]

    def __init__(
        self,
        config: GroundingConfig,
        width: int,
        patches: int,
        query_width: int | None = None,
        thresholds: GenerationConfig | None = None,
    ):
        """For patches [B, `patches`, `width`] and queries [B, `query_width`], `width` too without it.

        `thresholds` are of `match_length`.
        """
        super().__init__()
        if config.key_width % config.heads:
            raise ValueError(
                f"grounding.key_width is {config.key_width}, but a multiple of heads ({config.heads}) is expected."
            )
        self.config, self.thresholds = config, thresholds or GenerationConfig()
        self.to_query = nn.Linear(query_width or width, config.key_width, bias=False)
        self.to_key = nn.Linear(width, config.key_width, bias=False)
        self.to_value = nn.Linear(width, config.key_width, bias=False)
        if config.positions:
            self.key_positions = nn.Parameter(torch.randn(patches, width) * 0.02)
            self.value_positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        if config.scoring == "additive":
            self.score = nn.Linear(config.key_width // config.heads, 1, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.key_width, config.mlp_width),
            nn.GELU(),
            nn.Linear(config.mlp_width, config.condition_width),
        )
        self.null = nn.Parameter(torch.randn(1, config.condition_width) * 0.02)  # the dropped condition, eq. 2
        # Running statistics of attention in training; 1/P is what a mask on a fresh model gets.
        self.register_buffer("weight_std", torch.tensor(1.0 / patches))
        self.register_buffer("weight_count", torch.tensor(0))
        if config.match_length:
            self.register_buffer("condition_mean", torch.zeros(config.condition_width))
            self.register_buffer("condition_length", torch.tensor(0.0))
        self.register_buffer("condition_backdrop", torch.zeros(config.condition_width) if config.backdrops else None)

    def attend(self, query: Tensor, patches: Tensor) -> Tensor:
        """Attention weights of queries [B, L] over patches [B, P, L]: [B, heads, P], each row sums to 1 (eq. 4)."""
        heads = self.config.heads
        keys = patches + self.key_positions if self.config.positions else patches
        q = self.to_query(query).unflatten(-1, (heads, -1))  # [B, heads, d]
        k = self.to_key(keys).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, P, d]
        if self.config.scoring == "additive":  # Bahdanau's form: a learned vector over tanh(q + k)
            scores = self.score(torch.tanh(q[:, :, None] + k))[..., 0]
        else:
            scores = (q[:, :, None] * k).sum(-1) / q.shape[-1] ** 0.5
        return scores.float().softmax(dim=-1)

    def gather(self, weights: Tensor, patches: Tensor) -> Tensor:
        """MLP(weights V): weights [B, heads, P] (or [B, 1, P] for all heads alike) -> condition [B, 1, D].

        Outside of training conditions are brought to `match_length`'s length, where the configuration asks for it.
        """
        return self._gathered(weights, patches)[0]

    def _gathered(self, weights: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What `gather` gives, and how sure it is: [B]."""
        values = patches + self.value_positions if self.config.positions else patches
        v = self.to_value(values).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)  # [B, heads, P, d]
        gathered = (weights.to(v.dtype)[..., None] * v).sum(dim=2)  # [B, heads, d]
        condition = cast(Tensor, self.mlp(gathered.flatten(1)))
        sureness = torch.ones(len(condition), device=condition.device)
        if self.config.match_length and not self.training:
            usual = self.condition_mean, self.condition_length, self.condition_backdrop
            condition, sureness = match_length(condition, *usual, self.thresholds)
            seen = functional.normalize(patches.float(), dim=-1)
            like = (seen * functional.normalize(seen.mean(dim=1, keepdim=True), dim=-1)).sum(dim=-1)  # [B, P]
            sureness = sureness * between(like.amin(dim=-1), self.thresholds.alike, self.thresholds.apart)
        return condition[:, None], sureness

    def by_query(self, query: Tensor, patches: Tensor) -> Condition:
        """Condition by attention: query [B, L], patches [B, P, L]. `weights` is the mean over heads."""
        weights = self.attend(query, patches)
        tokens, sureness = self._gathered(weights, patches)
        if self.training:
            self._observe(weights, tokens)
        return Condition(tokens, weights.mean(dim=1), sureness)

    def by_mask(self, coverage: Tensor, patches: Tensor, *, clamp: bool | None = None) -> Condition:
        """Condition by mask: coverage [B, P] of `mask_to_grid`, patches [B, P, L].

        Args:
            clamp: overrides the configuration's `clamp_weights`.

        Raises:
            ValueError: an empty mask.
        """
        cut = self.config.clamp_weights if clamp is None else clamp
        weights = match_moments(coverage.to(patches.device), self.weight_std.float(), clamp=cut)
        tokens, sureness = self._gathered(weights[:, None], patches)
        return Condition(tokens, weights, sureness)

    def null_condition(self, batch: int) -> Tensor:
        """[batch, 1, D]: what replaces a dropped condition."""
        return self.null.expand(batch, 1, -1)

    @torch.no_grad()
    def _observe(self, weights: Tensor, tokens: Tensor) -> None:
        """Keep running means: of the weights' standard deviation over patches, of conditions and their length."""
        self.weight_count += 1
        share = torch.clamp(1 / self.weight_count, min=0.001)
        self.weight_std += (weights.float().std(dim=-1, unbiased=False).mean() - self.weight_std) * share
        if self.config.match_length:
            conditions = tokens[:, 0].float()
            self.condition_mean += (conditions.mean(dim=0) - self.condition_mean) * share
            length = (conditions - self.condition_mean).norm(dim=-1).mean()
            self.condition_length += (length - self.condition_length) * share
