"""The quantities of theorem 3.1 (section 3.3) and of its proof (appendix F), as functions of plain tensors.

Of a query q the theorem knows three weightings of the image's P patches. All sum to 1:

    p  the true mask: p_k = P(text | patch k) / sum_i P(text | patch i)
    u  the attention weights: softmax over patches of <text, patch k>_Sigma (equation 4)
    m  the mask that takes the place of u when a sound is made

Where the paper leaves room, it is read as follows.

- P(text | patch k) is the share of patch k that the object covers, which is known in drawn scenes.
- The theorem writes E_v(t) and E_t(i). By section 3.2, texts go through E_t and patches through E_v.
- m is called normalised, but matched to the mean and variance of attention (section 3.2) it may be negative. Only D and
  E of the proof concern m, and they need no sign.
- |V|_inf is the greatest Euclidean norm of V's rows. With x that sums to any value, |x V|_2 <= |x|_1 |V|_inf, which is
  what the steps A, B and E of the proof use, beside a Lipschitz constant of f in the Euclidean norm.
- V is made from the image, so eps_V and B_v differ between queries. The proof needs the mean of the first and the
  maximum of the second.
- An expectation is the mean over the scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def normalized(coverage: Tensor) -> Tensor:
    """p of section 3.3: coverage [..., P], not negative and not all zero, scaled to sum 1."""
    coverage = coverage.double()
    total = coverage.sum(dim=-1, keepdim=True)
    if (coverage < 0).any() or (total <= 0).any():
        raise ValueError("A mask is empty or has negative values, but an object that is seen is expected.")
    return coverage / total


def log_attention(query: Tensor, keys: Tensor, to_query: Tensor, to_key: Tensor) -> Tensor:
    """log u of appendix F, in float64, so that no weight vanishes.

    Args:
        query: [B, L] text embeddings.
        keys: [B, P, L] patch embeddings, with their positions where there are any.
        to_query, to_key: [d_k, L] weights of the projections, W^Q and W^K transposed.

    Returns:
        [B, P] logarithms of `softmax(<query, keys>_Sigma)`. Equation 4 written in one product needs
        Sigma = W^Q (W^K)^T / sqrt(d_k) between a text on the left and a patch on the right; the theorem prints the
        transpose of it, which is the same form with the two sides exchanged.
    """
    sigma = to_query.double().T @ to_key.double() / to_query.shape[0] ** 0.5  # [L, L]
    return torch.einsum("bl,lm,bpm->bp", query.double(), sigma, keys.double()).log_softmax(dim=-1)


def l1(one: Tensor, other: Tensor) -> Tensor:
    """|one - other|_1 over the last dimension; of two weightings that are not negative it is at most 2."""
    return (one.double() - other.double()).abs().sum(dim=-1)


def entropy(p: Tensor) -> Tensor:
    """E_{d ~ p}[-log p_d] in nats, the least InfoNCE loss that a query can have."""
    return -torch.xlogy(p, p).sum(dim=-1)


def info_nce(p: Tensor, log_u: Tensor) -> Tensor:
    """E_{d ~ p}[-log u_d] in nats: the model's InfoNCE loss (equation 5) with patches as candidates."""
    return -torch.where(p > 0, p * log_u, torch.zeros_like(p)).sum(dim=-1)


def divergence(p: Tensor, log_u: Tensor) -> Tensor:
    """D_KL(p | u) in nats: what a query adds to eps_contrast, the model's InfoNCE loss minus the least one."""
    return (info_nce(p, log_u) - entropy(p)).clamp(min=0)  # rounding may leave -1e-17


def row_norm(values: Tensor) -> Tensor:
    """|V|_inf of values [..., P, d], the greatest Euclidean norm of a row."""
    return values.double().norm(dim=-1).amax(dim=-1)


def shared(one: Tensor, other: Tensor) -> Tensor:
    """The overlap of two weightings of sum 1 without negative weights: sum_k min(one_k, other_k) = 1 - l1 / 2."""
    return torch.minimum(one.double(), other.double()).sum(dim=-1)


def top_overlap(weights: Tensor, coverage: Tensor) -> Tensor:
    """Intersection over union of the patches that a mask covers by half, and as many of the greatest weights: [B].

    Where no patch is covered by half, the one that is covered most counts.
    """
    overlaps = []
    for row, cover in zip(weights, coverage, strict=True):
        inside = cover >= min(0.5, float(cover.max()))
        count = int(inside.sum())
        hit = int(inside[row.topk(count).indices].sum())
        overlaps.append(hit / (2 * count - hit))
    return torch.tensor(overlaps, dtype=torch.float64)


@dataclass(frozen=True)
class Lemma:
    """Lemma F.1: E|u - p|_1 <= sqrt(2 eps_contrast). It holds query by query as well, by Pinsker's inequality."""

    distance: Tensor  # [B] |u - p|_1
    limit: Tensor  # [B] sqrt(2 D_KL(p | u))
    eps_contrast: float  # the mean of D_KL(p | u)

    @property
    def mean_distance(self) -> float:
        """The lemma's left side."""
        return float(self.distance.mean())

    @property
    def mean_limit(self) -> float:
        """The lemma's right side."""
        return (2 * self.eps_contrast) ** 0.5

    @property
    def violations(self) -> int:
        """Queries of which the inequality does not hold (but for rounding), plus one if it fails for the mean."""
        single = int((self.distance > self.limit + 1e-9).sum())
        return single + int(self.mean_distance > self.mean_limit + 1e-9)


def lemma(p: Tensor, log_u: Tensor) -> Lemma:
    """Lemma F.1 of true masks p [B, P] and attention log u [B, P]."""
    found = divergence(p, log_u)
    return Lemma(l1(log_u.exp(), p), (2 * found).sqrt(), float(found.mean()))


@dataclass(frozen=True)
class Constants:
    """What equation 6 consists of."""

    eps_sam: float  # E|m - p|_1
    eps_contrast: float  # nats
    eps_v: float  # E|V - V*|_inf
    eps_f: float  # E v(f*(a), i, p) - E v(f(a), i, p) for the attention's output a
    b_v: float  # a limit to |V|_inf and |V*|_inf
    l_v: float  # Lipschitz constant of the value metric v in its sound and in its mask
    l_f: float  # Lipschitz constant of f and f*


def bound(constants: Constants) -> dict[str, float]:
    """The right side of equation 6 term by term, with "total" their sum."""
    slope = constants.l_v * constants.l_f
    terms = {
        "contrast": slope * constants.b_v * 2 * (2 * constants.eps_contrast) ** 0.5,  # A, and a part of E
        "segmentation": slope * constants.b_v * constants.eps_sam,  # the other part of E
        "values": slope * constants.eps_v,  # B
        "metric": constants.l_v * constants.eps_sam,  # D
        "model": constants.eps_f,  # C
    }
    return terms | {"total": sum(terms.values())}
