"""What a classifier's logits and pairs of embeddings say: KL divergence, inception score, confidence at labels, cosine.

Two toolboxes are in use, and their KL differ. `KL_CONVENTIONS` names them:

- "audioldm_eval" (AudioLDM-Eval, which the paper used): sum over classes of p (log p - log(q + 1e-6)), p the softmax of
  the reference's logits and q that of the generated ones;
- "av_benchmark" (MMAudio's): sum over classes of p (log p - log q), by log-softmax.

Both report the mean over pairs. Both compute the inception score in ten splits after shuffling with seed 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import log_softmax, softmax, xlogy

from .intervals import Array, blocks

KL_CONVENTIONS = ("audioldm_eval", "av_benchmark")
EPSILON = 1e-6  # of AudioLDM-Eval
SPLITS, SHUFFLE_SEED = 10, 2020
LEFT_OUT = ("Speech", "Music")  # classes of ACC (appendix C)


def kl_divergences(generated: Array, reference: Array, convention: str) -> Array:
    """KL(reference || generated) per pair of logits [N, C]: [N], in nats.

    Raises:
        ValueError: shapes differ, or there is no such convention.
    """
    _check_pairs(generated, reference)
    if convention not in KL_CONVENTIONS:
        raise ValueError(f"The convention is {convention!r}, but one of {', '.join(KL_CONVENTIONS)} is expected.")
    parts = []
    for part in blocks(len(generated)):
        made, real = np.asarray(generated[part], np.float64), np.asarray(reference[part], np.float64)
        p = softmax(real, axis=1)
        if convention == "audioldm_eval":
            parts.append((xlogy(p, p) - p * np.log(softmax(made, axis=1) + EPSILON)).sum(axis=1))
        else:
            parts.append((p * (log_softmax(real, axis=1) - log_softmax(made, axis=1))).sum(axis=1))
    return np.concatenate(parts)


def inception_scores(
    logits: Array, weights: Array, *, splits: int = SPLITS, shuffle_seed: int | None = SHUFFLE_SEED
) -> Array:
    """Inception score (Salimans et al., 2016) of logits [N, C] per row of weights [R, N]: [R], the mean over splits.

    Args:
        logits: in the order of file names.
        weights: how often each item counts.
        splits: parts that are scored apart.
        shuffle_seed: of numpy's `RandomState`, as the toolboxes shuffle; None keeps the order.

    Raises:
        ValueError: there are fewer items than splits.
    """
    count = len(logits)
    if count < splits:
        raise ValueError(f"There are {count} sounds, but the inception score in {splits} splits expects as many.")
    order = np.arange(count) if shuffle_seed is None else np.random.RandomState(shuffle_seed).permutation(count)
    scores = []
    for split in range(splits):
        chosen = order[split * count // splits : (split + 1) * count // splits]
        total, entropy = np.zeros(len(weights)), np.zeros(len(weights))
        mixture = np.zeros((len(weights), logits.shape[1]))
        for part in blocks(len(chosen)):
            p = softmax(np.asarray(logits[chosen[part]], np.float64), axis=1)
            own = weights[:, chosen[part]].astype(np.float64)
            total += own.sum(axis=1)
            entropy += own @ xlogy(p, p).sum(axis=1)
            mixture += own @ p
        with np.errstate(invalid="ignore", divide="ignore"):  # a split of which nothing was drawn is NaN
            mixture /= total[:, None]
            scores.append(np.exp(entropy / total - xlogy(mixture, mixture).sum(axis=1)))
    found = np.array(scores)
    drawn = np.isfinite(found)
    return np.where(drawn, found, 0).sum(axis=0) / drawn.sum(axis=0)


def label_confidences(logits: Array, labels: Sequence[Sequence[int]], left_out: Sequence[int] = ()) -> Array:
    """ACC per clip: the mean softmax confidence at its annotated labels: [N], NaN for clips without one (appendix C).

    Args:
        logits: [N, C].
        labels: class numbers of each clip.
        left_out: classes that take no part, neither in the softmax nor as labels (Speech and Music).

    Raises:
        ValueError: another number of clips, or a class that does not exist.
    """
    classes = logits.shape[1]
    wrong = {label for own in labels for label in own if not 0 <= label < classes}
    if len(labels) != len(logits) or wrong:
        raise ValueError(
            f"There are labels of {len(labels)} clips{f' with classes {sorted(wrong)}' if wrong else ''}, but of "
            f"{len(logits)} clips with classes 0 to {classes - 1} are expected."
        )
    kept = np.setdiff1d(np.arange(classes), np.asarray(left_out, int))
    confidences = np.full(len(logits), np.nan)
    for part, probabilities in _probabilities(logits, kept):
        for row, item in enumerate(range(part.start, part.stop)):
            chosen = np.isin(kept, np.asarray(labels[item], int))
            if chosen.any():
                confidences[item] = probabilities[row, chosen].mean()
    return confidences


def _probabilities(logits: Array, kept: Array) -> Iterator[tuple[slice, Array]]:
    for part in blocks(len(logits)):
        yield part, softmax(np.asarray(logits[part], np.float64)[:, kept], axis=1)


def cosines(first: Array, second: Array) -> Array:
    """Cosine per pair of embeddings [N, D]: [N], NaN where one is zero; AVC, IB and CLIP scores by their own encoders.

    Raises:
        ValueError: shapes differ.
    """
    _check_pairs(first, second)
    parts = []
    for part in blocks(len(first)):
        one, two = np.asarray(first[part], np.float64), np.asarray(second[part], np.float64)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((one * two).sum(axis=1) / lengths)
    return np.concatenate(parts)


def _check_pairs(first: Array, second: Array) -> None:
    if not len(first) and not len(second):
        raise ValueError("There is no pair of sounds.")
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"Pairs have shapes {first.shape} and {second.shape}, but two equal [items, values] are expected."
        )
