"""Each quantity of the theorem beside closed forms, and lemma F.1 as a property."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sounding.config import GroundingConfig
from sounding.grounding import Grounding
from training.evaluate.theory.quantities import (
    Constants,
    bound,
    divergence,
    entropy,
    info_nce,
    l1,
    lemma,
    log_attention,
    normalized,
    row_norm,
    shared,
    top_overlap,
)

THIRD = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
SKEWED = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64)
shares = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=4, max_size=4).filter(any)
scores = st.lists(st.floats(-300, 300), min_size=4, max_size=4)
queries = st.lists(st.tuples(shares, scores), min_size=1, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def without_lazy_modules() -> None:
    """SpeechBrain, where a test before has used it, leaves modules that import what is not installed when they are
    looked at, as hypothesis does.
    """
    for name, module in list(sys.modules.items()):
        if any(kind.__name__ == "LazyModule" for kind in type(module).__mro__):
            del sys.modules[name]


def weightings(drawn: list[tuple[list[float], list[float]]]) -> tuple[Tensor, Tensor]:
    p = normalized(torch.tensor([share for share, _ in drawn]))
    return p, torch.tensor([score for _, score in drawn], dtype=torch.float64).log_softmax(dim=-1)


@settings(deadline=None)
@given(queries)
def test_the_lemma_holds_for_all_masks_and_attentions(drawn: list[tuple[list[float], list[float]]]) -> None:
    p, log_u = weightings(drawn)
    found = lemma(p, log_u)
    assert (found.distance <= found.limit + 1e-9).all()
    assert found.mean_distance <= math.sqrt(2 * found.eps_contrast) + 1e-9
    assert found.violations == 0


@settings(deadline=None)
@given(queries)
def test_what_two_weightings_share_is_one_less_half_their_distance(
    drawn: list[tuple[list[float], list[float]]],
) -> None:
    p, log_u = weightings(drawn)
    assert torch.allclose(shared(log_u.exp(), p), 1 - l1(log_u.exp(), p) / 2, atol=1e-9)


def test_quantities_of_a_small_query() -> None:
    assert l1(SKEWED, THIRD).item() == pytest.approx(1.0)
    assert entropy(THIRD).item() == pytest.approx(math.log(2))
    assert info_nce(THIRD, SKEWED.log()).item() == pytest.approx(math.log(4))
    assert divergence(THIRD, SKEWED.log()).item() == pytest.approx(math.log(2))
    assert shared(SKEWED, THIRD).item() == pytest.approx(0.5)
    found = lemma(THIRD, SKEWED.log())
    assert found.mean_distance == pytest.approx(1.0)
    assert found.mean_limit == pytest.approx(math.sqrt(2 * math.log(2)))


def test_equal_weightings_are_the_lemmas_tight_end() -> None:
    found = lemma(SKEWED, SKEWED.log())
    assert (found.mean_distance, found.mean_limit) == (0, 0)
    # Near u = p Pinsker's inequality becomes an equation: for two patches of a half each, moved by d.
    p, d = torch.full((1, 2), 0.5, dtype=torch.float64), 1e-3
    near = lemma(p, torch.tensor([[0.5 + d, 0.5 - d]], dtype=torch.float64).log())
    assert near.mean_distance / near.mean_limit == pytest.approx(1, abs=1e-5)


def test_violations_are_counted() -> None:
    found = lemma(THIRD, torch.zeros(1, 3, dtype=torch.float64))  # weights of sum 3 are no attention
    assert found.violations == 2


def test_a_patch_outside_of_the_mask_may_have_no_attention() -> None:
    assert divergence(THIRD, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()).item() == 0


def test_masks_are_normalised_and_empty_ones_refused() -> None:
    assert normalized(torch.tensor([[1.0, 0.5, 0.0, 0.5]])).tolist() == [[0.5, 0.25, 0.0, 0.25]]
    for wrong in (torch.zeros(1, 4), torch.tensor([[1.0, -0.1]])):
        with pytest.raises(ValueError, match="empty or has negative"):
            normalized(wrong)


def test_attention_is_that_of_the_model() -> None:
    grounding = Grounding(GroundingConfig(key_width=8, mlp_width=4, condition_width=4), 6, 9, query_width=6)
    query, patches = torch.randn(2, 6) * 3, torch.randn(2, 9, 6) * 3
    keys = patches + grounding.key_positions
    found = log_attention(query, keys, grounding.to_query.weight, grounding.to_key.weight).exp()
    assert torch.allclose(found.float(), grounding.attend(query, patches)[:, 0], atol=1e-5)


def test_the_norm_of_values_is_that_of_the_longest_row() -> None:
    values = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [2.0, 0.0]]])
    assert row_norm(values).tolist() == [5.0, 2.0]
    weights = torch.randn(50, 1, 2)  # the inequality that the proof uses, of any weights
    moved = (weights @ values[0]).norm(dim=-1)[:, 0]
    assert (moved <= weights.abs().sum(dim=-1)[:, 0] * 5.0 + 1e-5).all()


def test_overlap_counts_as_many_patches_as_the_mask_has() -> None:
    coverage = torch.tensor([[1.0, 0.6, 0.4, 0.0], [0.0, 0.0, 0.3, 0.1]])
    weights = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.4, 0.3]])
    assert top_overlap(weights, coverage).tolist() == pytest.approx([1 / 3, 1.0])


def test_the_bound_is_equation_6() -> None:
    constants = Constants(eps_sam=0.1, eps_contrast=0.02, eps_v=0.3, eps_f=0.5, b_v=2.0, l_v=3.0, l_f=5.0)
    terms = bound(constants)
    assert terms["total"] == pytest.approx(3 * 5 * (0.3 + 2 * (0.1 + 2 * math.sqrt(2 * 0.02))) + 3 * 0.1 + 0.5)
    assert terms["contrast"] == pytest.approx(3 * 5 * 2 * 2 * 0.2)
    assert (terms["metric"], terms["model"]) == (pytest.approx(0.3), 0.5)
