"""Mask weights, and attention, against sums written out by hand in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sounding.grounding import Condition, Grounding, match_moments

from .small_grounding import SMALL, WIDTH, P, inputs, make, partial


def moments_by_hand(coverage: np.ndarray, std: float) -> np.ndarray:
    """(mask - mean) / deviation * std + 1/P, row by row in float64."""
    rows = []
    for row in coverage.astype(np.float64):
        spread = math.sqrt(sum((value - row.mean()) ** 2 for value in row) / len(row))
        rows.append((row - row.mean()) / spread * std + 1 / len(row))
    return np.stack(rows)


SOFT = torch.linspace(0, 1, P).square()[None]


@pytest.mark.parametrize("std", [1 / P, 0.003, 0.14])
@pytest.mark.parametrize(
    "coverage",
    [partial(1), partial(24), partial(48), SOFT, SOFT * 0.01],
    ids=["one patch", "half", "all but one", "soft edges", "faint"],
)
def test_mask_gets_the_moments_of_attention(coverage: torch.Tensor, std: float) -> None:
    weights = match_moments(coverage, std).double().numpy()
    assert weights.mean() == pytest.approx(1 / P, rel=1e-5)
    assert np.sqrt(((weights - weights.mean()) ** 2).mean()) == pytest.approx(std, rel=1e-4)
    np.testing.assert_allclose(weights, moments_by_hand(coverage.numpy(), std), atol=1e-6)


@pytest.mark.parametrize("level", [1.0, 0.3, 1 / 3, 1e-3])
def test_whole_picture_weighs_all_patches_alike(level: float) -> None:
    weights = match_moments(torch.full((2, P), level), 0.1)
    np.testing.assert_allclose(weights.numpy(), 1 / P, rtol=1e-6)


def test_batch_of_masks_is_matched_row_by_row() -> None:
    coverage = torch.cat([partial(1), partial(30), SOFT])
    per_row = torch.tensor([[0.01], [0.02], [0.03]])
    weights = match_moments(coverage, per_row)
    for row, std in enumerate((0.01, 0.02, 0.03)):
        expected = moments_by_hand(coverage[row : row + 1].numpy(), std)
        np.testing.assert_allclose(weights[row : row + 1].numpy(), expected, atol=1e-6)


def test_more_cover_never_weighs_less() -> None:
    weights = match_moments(SOFT, 0.05)
    assert (weights.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("rows", [[0], [0, 1]])
def test_empty_mask_is_refused(rows: list[int]) -> None:
    coverage = torch.ones(2, P)
    coverage[rows] = 0
    with pytest.raises(ValueError, match="mask is empty"):
        match_moments(coverage, 0.1)


@pytest.mark.parametrize("clamp", [False, True])
def test_clamping_cuts_negative_weights_and_renormalises(clamp: bool) -> None:
    matched = moments_by_hand(partial(24).numpy(), 0.1)
    assert matched.min() < 0  # else this would test nothing
    weights = match_moments(partial(24), 0.1, clamp=clamp).double().numpy()
    expected = np.clip(matched, 0, None) / np.clip(matched, 0, None).sum() if clamp else matched
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert weights.sum() == pytest.approx(1, abs=1e-5)


def numbers(grounding: Grounding) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in grounding.state_dict().items()}


def attention_by_hand(grounding: Grounding, query: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Equation 4 with loops: query [L], patches [P, L] -> [heads, P]."""
    weight, config = numbers(grounding), grounding.config
    keys = patches + weight["key_positions"] if config.positions else patches
    size = config.key_width // config.heads
    rows = []
    for head in range(config.heads):
        own = slice(head * size, (head + 1) * size)
        q, scores = weight["to_query.weight"][own] @ query, np.empty(len(patches))
        for index, key in enumerate(keys):
            k = weight["to_key.weight"][own] @ key
            if config.scoring == "dot":
                scores[index] = q @ k / math.sqrt(size)
            else:
                scores[index] = weight["score.weight"][0] @ np.tanh(q + k)
        exponentials = np.exp(scores - scores.max())
        rows.append(exponentials / exponentials.sum())
    return np.stack(rows)


def condition_by_hand(grounding: Grounding, weights: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """MLP(weights V): weights [heads, P], patches [P, L] -> [D]."""
    weight, config = numbers(grounding), grounding.config
    values = (patches + weight["value_positions"] if config.positions else patches) @ weight["to_value.weight"].T
    size = config.key_width // config.heads
    gathered = np.concatenate([row @ values[:, i * size : (i + 1) * size] for i, row in enumerate(weights)])
    hidden = weight["mlp.0.weight"] @ gathered + weight["mlp.0.bias"]
    hidden = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    return weight["mlp.2.weight"] @ hidden + weight["mlp.2.bias"]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("scoring", ["dot", "additive"])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_equation_4(heads: int, scoring: str, positions: bool) -> None:
    grounding = make(heads=heads, scoring=scoring, positions=positions)
    query, patches = inputs()
    weights = grounding.attend(query, patches)
    condition = grounding.by_query(query, patches)
    assert weights.shape == (3, heads, P)
    assert condition.tokens.shape == (3, 1, SMALL.condition_width)
    np.testing.assert_allclose(weights.sum(-1).numpy(), 1, atol=1e-6)
    for row in range(3):
        q, p = query[row].double().numpy(), patches[row].double().numpy()
        expected = attention_by_hand(grounding, q, p)
        np.testing.assert_allclose(weights[row].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(condition.weights[row].numpy(), expected.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(
            condition.tokens[row, 0].numpy(), condition_by_hand(grounding, expected, p), atol=1e-4
        )


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_mask_takes_attentions_place(heads: int, clamp: bool) -> None:
    grounding = make(heads=heads, clamp_weights=clamp)
    grounding.weight_std.fill_(0.06)
    _, patches = inputs(1)
    matched = moments_by_hand(partial(24).numpy(), 0.06)
    if clamp:
        matched = np.clip(matched, 0, None)
        matched /= matched.sum()
    condition = grounding.by_mask(partial(24), patches)
    expected = condition_by_hand(grounding, matched.repeat(heads, axis=0), patches[0].double().numpy())
    np.testing.assert_allclose(condition.weights.numpy(), matched, atol=1e-6)
    np.testing.assert_allclose(condition.tokens[0, 0].numpy(), expected, atol=1e-4)


def test_clamp_argument_overrides_the_configuration() -> None:
    grounding = make(clamp_weights=True)
    grounding.weight_std.fill_(0.1)
    _, patches = inputs(1)
    assert grounding.by_mask(partial(24), patches).weights.min() >= 0
    assert grounding.by_mask(partial(24), patches, clamp=False).weights.min() < 0


def test_only_the_masked_patches_decide_the_condition() -> None:
    grounding = make(clamp_weights=True)
    # From this deviation on, 10 of 49 patches get all the weight and the rest are cut to 0.
    grounding.weight_std.fill_(1 / P * math.sqrt((P - 10) / 10) * 1.01)
    _, patches = inputs(1)
    outside, inside = patches.clone(), patches.clone()
    outside[:, 10:] = torch.randn(1, P - 10, WIDTH)
    inside[:, :10] = torch.randn(1, 10, WIDTH)
    first = grounding.by_mask(partial(10), patches).tokens
    assert torch.equal(first, grounding.by_mask(partial(10), outside).tokens)
    assert not torch.allclose(first, grounding.by_mask(partial(10), inside).tokens, atol=0.01)


def test_running_deviation_is_the_mean_over_training() -> None:
    grounding = make()
    start = float(grounding.weight_std)
    assert start == pytest.approx(1 / P)
    generator = torch.Generator().manual_seed(2)
    batches = [
        (torch.randn(4, WIDTH, generator=generator), torch.randn(4, P, WIDTH, generator=generator)) for _ in range(5)
    ]
    grounding.by_query(*batches[0])
    assert float(grounding.weight_std) == start  # not in training: nothing is observed
    grounding.train()
    deviations = []
    for query, patches in batches:
        grounding.by_query(query, patches)
        for q, p in zip(query.double().numpy(), patches.double().numpy(), strict=True):
            deviations.append(attention_by_hand(grounding, q, p).std(axis=-1).mean())
    assert int(grounding.weight_count) == 5
    assert float(grounding.weight_std) == pytest.approx(np.mean(deviations), rel=1e-5)


def test_heads_must_divide_the_key_width() -> None:
    with pytest.raises(ValueError, match="key_width is 12"):
        make(heads=5)


def test_null_condition_is_one_vector_for_all() -> None:
    grounding = make()
    null = grounding.null_condition(3)
    assert null.shape == (3, 1, SMALL.condition_width)
    assert torch.equal(null[0], null[2])
    assert torch.equal(null[0], grounding.null)


def test_attention_map_is_a_picture_of_the_weights() -> None:
    weights = torch.zeros(2, P)
    weights[0, 0], weights[1, 24] = 1.0, 0.5  # top left, middle
    maps = Condition(torch.zeros(2, 1, 4), weights, torch.ones(2), ("mask",) * 2).attention_map((70, 140))
    assert maps.shape == (2, 70, 140)
    assert maps.amin(dim=(1, 2)).tolist() == [0, 0]
    assert maps.amax(dim=(1, 2)).tolist() == [1, 1]
    assert maps[0, 2, 2] == 1
    assert maps[0, 20:].max() == 0
    assert maps[1, 35, 70] == pytest.approx(1, abs=0.15)
    even = Condition(torch.zeros(1, 1, 4), torch.full((1, P), 1 / P), torch.ones(1), ("text",))
    assert torch.isfinite(even.attention_map((8, 8))).all()
