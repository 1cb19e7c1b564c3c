"""The paper's core (section 3.2): attention of a query over patches, or a mask in place of its weights.

Training: `weights = softmax(Q K^T / sqrt(d_k))`, `condition = MLP(weights V)` (equations 3 and 4). Generation:
the weights are the object's mask, brought to the mean and variance that attention weights have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GenerationConfig, GroundingConfig

Source = Literal["mask", "text", "name", "sound"]
SURE = 0.5  # sureness from which a selection counts as known: halfway between a checkpoint's own thresholds


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
    _check_not_empty(coverage)
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


def attend_within(weights: Tensor, coverage: Tensor, std: Tensor | float, *, clamp: bool = False) -> Tensor:
    """Attention within a mask: the product of both, brought to attention's statistics as a mask alone is.

    Before that it is `softmax(Q K^T / sqrt(d_k) + log coverage)`, as attention masks are applied. Even attention, which
    a text that the model does not know tends to, leaves the mask's own weights, see `match_moments`.

    Args:
        weights: [B, heads, P] of `Grounding.attend`.
        coverage: [B, P] share of each patch that the mask covers, not all zero.
        std, clamp: see `match_moments`.

    Returns:
        [B, heads, P].

    Raises:
        ValueError: a mask is empty.
    """
    _check_not_empty(coverage)
    confined = (weights + 1e-12) * coverage[:, None]  # where attention has vanished, the mask is weighted evenly
    return shift_and_scale(confined / confined.sum(dim=-1, keepdim=True), std, clamp=clamp)


def _check_not_empty(coverage: Tensor) -> None:
    if (coverage.amax(dim=-1) <= 0).any():
        raise ValueError(
            "mask is empty, but it should cover the object that is to sound; paint or select something (a white "
            "mask selects the whole image)."
        )


def match_norm(
    condition: Tensor,
    mean: Tensor,
    usual: Tensor,
    backdrop: Tensor | None = None,
    thresholds: GenerationConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Bring conditions that lie close to the mean condition out to the usual distance from it.

    The patches of images unlike those in training resemble each other, so their conditions lie closer to the mean
    condition than the U-Net has seen in training. As masks are brought to the moments of attention, these conditions
    are scaled to the usual norm of the difference from the mean: only outwards, in the direction that they have.
    Conditions of a mere backdrop carry no information about an object. They become almost the mean condition of
    backdrops, so that little of the objects in front of it is left in them, but not quite, so that two images never
    have the same condition.

    Args:
        condition: [B, D].
        mean: [D] of all conditions in training.
        usual: scalar, the mean norm of their differences from `mean`.
        backdrop: [D] mean difference of backdrops' conditions from `mean`. Without it, a condition that is
            nearly `mean` counts as a backdrop's, and stays.
        thresholds: of sureness, and the share of its own condition that a backdrop keeps; by default those of
            `GenerationConfig`.

    Returns:
        The conditions, and the sureness that they show an object: [B], 0 to 1.
    """
    given = thresholds or GenerationConfig()
    difference = condition.float() - mean.float()
    norm = difference.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    ratio = norm / usual.float().clamp(min=1e-6)
    if backdrop is None:
        without_object, shows = difference, between(ratio, *given.norm_ratio)
        sureness = shows
    else:
        behind = backdrop.float().expand_as(difference)
        without_object = behind.lerp(difference, given.backdrop_share)
        cosine = functional.cosine_similarity(difference, behind, dim=-1)[:, None]
        shows = between(cosine, *given.backdrop_cosine)
        sureness = shows * between(
            ratio, *given.norm_ratio_beside_cosine
        )  # conditions of objects that are taken for others have small norms
    matched = difference * (1 / ratio).clamp(min=1)
    return (mean.float() + without_object.lerp(matched, shows)).to(condition.dtype), sureness[:, 0]


def least_cosine(patches: Tensor) -> Tensor:
    """The lowest cosine of a patch with the mean one: [B, P, L] -> [B]. Patches of plain images are all alike."""
    seen = functional.normalize(patches.float(), dim=-1)
    return (seen * functional.normalize(seen.mean(dim=1, keepdim=True), dim=-1)).sum(dim=-1).amin(dim=-1)


def between(values: Tensor, zero: float, one: float) -> Tensor:
    """Values on a line from 0 at the threshold `zero` to 1 at `one`, cut off there; a step where the two are equal."""
    if zero == one:
        return (values < zero).to(values.dtype)
    return ((values - zero) / (one - zero)).clamp(0, 1)


Names = Sequence[tuple[str, float]]  # with the cosine of each, the nearest first


@dataclass(frozen=True)
class Condition:
    """What the U-Net attends to, the attention weights that it was made with, and how sure the model is of it.

    `sureness` is 0 where the selection shows no more than a mere backdrop does, and 1 where it clearly shows something
    that the model knows; that of a text also tells how near it is to known names. It is measured by the norm and the
    direction of the condition's difference from the mean one, in the same way for masks and texts. Checkpoints without
    `grounding.norm_matching` do not measure it and give 1.
    """

    tokens: Tensor  # [B, N, D]
    weights: Tensor  # [B, P]
    sureness: Tensor  # [B] float, 0..1
    sources: tuple[Source, ...]  # per row, what it was made from; "name" is the name of what a mask shows
    nearest: tuple[Names, ...] = ()  # per row, the known names nearest to its text; empty for masks and sounds
    sentences: tuple[str, ...] = ()  # per row, the sentence that was embedded; "" for masks and sounds

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def source(self) -> str:
        """What the rows were made from: "mask", "text", "name" or "sound"; if they differ, several, with commas."""
        return ", ".join(dict.fromkeys(self.sources))

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        tokens, weights, sureness = (one.to(device) for one in (self.tokens, self.weights, self.sureness))
        return replace(self, tokens=tokens, weights=weights, sureness=sureness)

    def row(self, number: int) -> Condition:
        """One row alone."""
        only = slice(number, number + 1)
        kept = self.tokens, self.weights, self.sureness, self.sources, self.nearest, self.sentences
        return Condition(*(each[only] for each in kept))  # type: ignore[arg-type]

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """All rows of several conditions of one model, in their order."""
        return Condition(
            torch.cat([one.tokens for one in conditions]),
            torch.cat([one.weights for one in conditions]),
            torch.cat([one.sureness for one in conditions]),
            tuple(source for one in conditions for source in one.sources),
            tuple(names for one in conditions for names in one.nearest or [()] * len(one)),
            tuple(sentence for one in conditions for sentence in one.sentences or [""] * len(one)),
        )

    def attention_map(self, size: tuple[int, int]) -> Tensor:
        """Weights as an image: [B, *size], bilinear between patches, each scaled to 0..1 (figure 4)."""
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
        """For patches [B, `patches`, `width`] and queries [B, `query_width`], by default as wide as patches.

        `thresholds` are those of `match_norm`.
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
            nn.Softmax(dim=-1) if config.activation == "softmax" else nn.GELU(),
            nn.Linear(config.mlp_width, config.condition_width),
        )
        self.null = nn.Parameter(torch.randn(1, config.condition_width) * 0.02)  # the dropped condition, eq. 2
        # Running statistics of attention in training; 1/P is what a mask on a fresh model gets.
        self.register_buffer("weight_std", torch.tensor(1.0 / patches))
        self.register_buffer("weight_count", torch.tensor(0))
        if config.norm_matching:
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

        Outside of training conditions go through `match_norm`, where the configuration asks for it.
        """
        return self._gathered(weights, patches)[0]

    def _gathered(self, weights: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What `gather` gives, and how sure it is: [B]."""
        values = patches + self.value_positions if self.config.positions else patches
        v = self.to_value(values).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)  # [B, heads, P, d]
        gathered = (weights.to(v.dtype)[..., None] * v).sum(dim=2)  # [B, heads, d]
        condition = cast(Tensor, self.mlp(gathered.flatten(1)))
        sureness = torch.ones(len(condition), device=condition.device)
        if self.config.norm_matching and not self.training:
            usual = self.condition_mean, self.condition_length, self.condition_backdrop
            condition, sureness = match_norm(condition, *usual, self.thresholds)
            sureness = sureness * between(least_cosine(patches), *self.thresholds.patch_cosine)
        return condition[:, None], sureness

    def by_query(
        self, query: Tensor, patches: Tensor, coverage: Tensor | None = None, *, clamp: bool | None = None
    ) -> Condition:
        """Condition by attention: query [B, L], patches [B, P, L]. `weights` is the mean over heads.

        Args:
            coverage: [B, P] of `mask_to_grid`: the attention is confined to it, see `attend_within`.
            clamp: with `coverage`, overrides the configuration's `clamp_weights`.

        Raises:
            ValueError: `coverage` is empty.
        """
        weights = self.attend(query, patches)
        if coverage is not None:
            cut = self.config.clamp_weights if clamp is None else clamp
            weights = attend_within(weights, coverage.to(weights), self.weight_std.float(), clamp=cut)
        tokens, sureness = self._gathered(weights, patches)
        if self.training:
            self._observe(weights, tokens)
        source: Source = "text" if self.config.query == "text" else "sound"
        return Condition(tokens, weights.mean(dim=1), sureness, (source,) * len(tokens))

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
        source: Source = "mask"
        return Condition(tokens, weights, sureness, (source,) * len(tokens))

    def null_condition(self, batch: int) -> Tensor:
        """[batch, 1, D]: what replaces a dropped condition."""
        return self.null.expand(batch, 1, -1)

    @torch.no_grad()
    def _observe(self, weights: Tensor, tokens: Tensor) -> None:
        """Keep running means: the weights' deviation over patches, the condition, and its distance from the mean."""
        self.weight_count += 1
        share = torch.clamp(1 / self.weight_count, min=0.001)
        self.weight_std += (weights.float().std(dim=-1, unbiased=False).mean() - self.weight_std) * share
        if self.config.norm_matching:
            conditions = tokens[:, 0].float()
            self.condition_mean += (conditions.mean(dim=0) - self.condition_mean) * share
            length = (conditions - self.condition_mean).norm(dim=-1).mean()
            self.condition_length += (length - self.condition_length) * share
