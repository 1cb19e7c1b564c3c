"""Scores that mean the same for clips that training did not see (Platt, 1999).

A network that knows its training clips by heart is surer of their sounds than of other clips' own ones, so that matches
are missed at a fixed threshold. A slope and a shift of the logits, found on held-out clips, make up for that.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from .network import MatchingConfig, MatchingNetwork

LEAST = 1e-6  # as far as a probability may be from 0 and 1


def fit(matched: np.ndarray, mismatched: np.ndarray) -> tuple[float, float]:
    """Slope and shift of the logits of probabilities [N] of matches and [M] of mismatches by maximum likelihood.

    Targets are Platt's, (N + 1) / (N + 2) and 1 / (M + 2), so that pairs that are told apart completely have an answer.

    Raises:
        ValueError: matches are no likelier than mismatches.
    """
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([matched, mismatched]).clip(LEAST, 1 - LEAST)
    logits = np.log(both / (1 - both))[:, None]
    yes = (len(matched) + 1) / (len(matched) + 2), 1 / (len(mismatched) + 2)
    wanted = np.repeat(yes, (len(matched), len(mismatched)))
    weights, labels = np.concatenate([wanted, 1 - wanted]), np.repeat([1, 0], len(both))
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(np.concatenate([logits, logits]), labels, weights)
    slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        raise ValueError("The network holds matches for no likelier than mismatches; train it for longer.")
    return slope, shift


def calibrate(network: MatchingNetwork, matched: np.ndarray, mismatched: np.ndarray) -> MatchingConfig:
    """Let `network` give calibrated scores, by the scores that it gave; its new configuration.

    A pair has the score `threshold` where it is as likely among matches as among mismatches. So scores are the
    probabilities of matches in a collection whose share of matches is the threshold.

    Raises:
        ValueError: see `fit`.
    """
    slope, shift = fit(matched, mismatched)
    before = network.config
    share = min(max(before.threshold, LEAST), 1 - LEAST)
    shift += slope * before.shift + math.log(share / (1 - share))
    network.config = dataclasses.replace(before, slope=slope * before.slope, shift=shift)
    return network.config
