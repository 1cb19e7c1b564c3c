"""KL, inception score and confidences against the formulas in plain Python floats; intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from training.evaluate.intervals import Array, draw_weights, figure, weighted_means
from training.evaluate.scores import cosines, inception_scores, kl_divergences, label_confidences


def probabilities(row: Array) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.fixture
def logits() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (23, 7)).astype(np.float32), rng.normal(0, 3, (23, 7)).astype(np.float32)


def test_kl_in_both_conventions(logits: tuple[Array, Array]) -> None:
    made, real = logits
    inside, without = kl_divergences(made, real, "audioldm_eval"), kl_divergences(made, real, "av_benchmark")
    for item in range(23):
        q, p = probabilities(made[item].astype(float)), probabilities(real[item].astype(float))
        expected = sum(b * (math.log(b) - math.log(a + 1e-6)) for a, b in zip(q, p, strict=True))
        assert inside[item] == pytest.approx(expected, abs=1e-6)
        expected = sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True))
        assert without[item] == pytest.approx(expected, abs=1e-6)


def test_the_conventions_differ_where_a_class_is_ruled_out() -> None:
    made, real = np.array([[0.0, 200.0]]), np.array([[200.0, 0.0]])
    assert kl_divergences(made, real, "av_benchmark")[0] == pytest.approx(200, abs=1e-6)
    assert kl_divergences(made, real, "audioldm_eval")[0] == pytest.approx(-math.log(1e-6), abs=1e-6)
    far = np.array([[-2000.0, 2000.0]])
    assert np.isfinite(kl_divergences(far, -far, "audioldm_eval")).all()  # 0 log 0 is 0


def test_kl_is_of_the_reference_to_the_generated(logits: tuple[Array, Array]) -> None:
    made, real = logits
    assert kl_divergences(made, made, "av_benchmark") == pytest.approx(0, abs=1e-12)
    assert (kl_divergences(made, real, "av_benchmark") >= 0).all()
    assert not np.allclose(kl_divergences(made, real, "av_benchmark"), kl_divergences(real, made, "av_benchmark"))
    with pytest.raises(ValueError, match="one of audioldm_eval, av_benchmark"):
        kl_divergences(made, real, "other")
    with pytest.raises(ValueError, match="two equal"):
        kl_divergences(made, real[1:], "av_benchmark")


def score(rows: list[list[float]]) -> float:
    mixture = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return math.exp(sum(p * math.log(p / q) for row in rows for p, q in zip(row, mixture, strict=True)) / len(rows))


@pytest.mark.parametrize("seed", [None, 2020])
def test_inception_score_in_ten_splits(logits: tuple[Array, Array], seed: int | None) -> None:
    rows = [probabilities(row.astype(float)) for row in logits[0]]
    if seed is not None:
        rows = [rows[at] for at in np.random.RandomState(seed).permutation(23)]
    expected = np.mean([score(rows[split * 23 // 10 : (split + 1) * 23 // 10]) for split in range(10)])
    found = inception_scores(logits[0], np.ones((1, 23)), shuffle_seed=seed)
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_inception_scores_bounds(logits: tuple[Array, Array]) -> None:
    one = np.ones((1, 20))
    assert inception_scores(np.ones((20, 4)), one)[0] == pytest.approx(1)
    certain = np.tile(np.eye(2) * 1000, (10, 1))
    assert inception_scores(certain, one, shuffle_seed=None)[0] == pytest.approx(2)
    weights = np.zeros((1, 20))
    weights[:, ::2] = 2  # only one class is drawn
    assert inception_scores(certain, weights, shuffle_seed=None)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="10 splits expects as many"):
        inception_scores(np.ones((9, 4)), one)


def test_confidence_at_labels_leaves_speech_and_music_out(logits: tuple[Array, Array]) -> None:
    made = logits[0][:4]
    labels = [[1], [0, 3], [2, 5], []]
    found = label_confidences(made, labels, left_out=[0, 6])
    for item, kept in ((0, [1]), (1, [3]), (2, [2, 5])):
        p = dict(zip(range(1, 6), probabilities(made[item, 1:6].astype(float)), strict=True))
        assert found[item] == pytest.approx(sum(p[label] for label in kept) / len(kept), abs=1e-9)
    assert math.isnan(found[3])
    assert math.isnan(label_confidences(made[:1], [[0, 6]], left_out=[0, 6])[0])
    with pytest.raises(ValueError, match=r"classes \[7\]"):
        label_confidences(made[:1], [[7]])
    with pytest.raises(ValueError, match="labels of 1 clips"):
        label_confidences(made, [[1]])


def test_cosines() -> None:
    first = np.array([[1.0, 0], [3, 4], [0, 0]])
    assert cosines(first, np.array([[2.0, 0], [4, -3], [1, 1]]))[:2] == pytest.approx([1, 0])
    assert math.isnan(cosines(first, first)[2])


def test_intervals_of_means_cover_them() -> None:
    """About 95 of 100 intervals hold the true mean, and they are as wide as Student's."""
    rng = np.random.default_rng(0)
    values = rng.exponential(2.0, 9)
    found = figure(weighted_means(values, draw_weights(9, 20_000)), 9)
    student = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert found.high - found.low == pytest.approx(student[1] - student[0], rel=0.05)
    held = 0
    for seed in range(200):
        values = rng.normal(1.0, 2.0, 60)
        found = figure(weighted_means(values, draw_weights(60, 300, seed)), 60)
        assert found.value == pytest.approx(values.mean())
        held += found.low <= 1.0 <= found.high
    assert 180 <= held <= 198


def test_paired_differences_have_narrow_intervals() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(0, 5, 80)
    second = first - 0.5 + rng.normal(0, 0.1, 80)
    weights = draw_weights(80, 300)
    paired = figure(weighted_means(first, weights) - weighted_means(second, weights), 80)
    assert paired.low > 0.4
    assert paired.high < 0.6
    alone = figure(weighted_means(first, weights), 80)
    assert alone.high - alone.low > 1


def test_items_without_a_value_do_not_count() -> None:
    weights = draw_weights(3, 50)
    assert weights.shape == (51, 3)
    assert (weights.sum(axis=1) == 3).all()
    means = weighted_means(np.array([1.0, np.nan, 3.0]), weights)
    assert means[0] == 2.0
    assert np.nanmin(means) == 1.0
    assert np.nanmax(means) == 3.0
    assert figure(means, 2).low < 1.0  # two items say little
    assert math.isnan(figure(np.array([1.0]), 1).low)
