"""Do sounds last? What is longer than the judge's clips is judged window by window."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.shard_format import SAMPLE_RATE
from .judge import Ear, ranks_of, score, score_ranks

WINDOW = round(2.56 * SAMPLE_RATE)  # what the judge was trained on
QUIET = -40.0  # dB


def window_starts(samples: int) -> list[int]:
    """Where the judge listens: windows side by side, the last one up to the end."""
    last = max(0, samples - WINDOW)
    return [*range(0, last, WINDOW), last]


def judged(judge: Ear, sounds: Tensor) -> Tensor:
    """[N, samples] -> the judge's scores of each window [N, windows, classes]."""
    return torch.stack([judge(sounds[:, start : start + WINDOW]) for start in window_starts(sounds.shape[1])], dim=1)


def fading(sounds: Tensor) -> Tensor:
    """[N, samples] -> [N]: level (RMS) of the quietest quarter to that of the loudest, dB."""
    levels = torch.stack([part.square().mean(dim=1).sqrt() for part in sounds.tensor_split(4, dim=1)], dim=1)
    return 20 * (levels.amin(dim=1) / levels.amax(dim=1).clamp(min=1e-9)).clamp(min=1e-9).log10()


def score_length(judge: Ear, sounds: Tensor, labels: Tensor) -> dict[str, object]:
    """What the judge says of sounds [N, samples] of any length, of objects [N].

    `mean` is the guess from the mean scores of all windows; `last` that from the last window, where
    silence or noise would come late; `each` counts all windows one by one, and `worst` a sound's worst window only.
    `quiet_quarters` is the share of sounds with a quarter more than 40 dB below the loudest.
    """
    heard = judged(judge, sounds)
    ranks = torch.stack([ranks_of(heard[:, window], labels) for window in range(heard.shape[1])], dim=1)
    return {
        "mean": vars(score(heard.mean(dim=1), labels)),
        "last": vars(score_ranks(ranks[:, -1])),
        "each": vars(score_ranks(ranks.flatten())),
        "worst": vars(score_ranks(ranks.amax(dim=1))),
        "quiet_quarters": float((fading(sounds) < QUIET).float().mean()),
    }
