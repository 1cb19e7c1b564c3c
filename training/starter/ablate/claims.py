"""What the paper claims, and the rule by which figures say whether it holds here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...evaluate.study.statistics import mean_of
from .rows import OURS, WHOLE, Cell

Verdict = Literal["holds", "does not hold", "undecided", "not measured"]
Kind = Literal["better", "alike"]
HIGHER_IS_BETTER = {
    "acc": True,
    "top1": True,
    "top5": True,
    "control": True,
    "is": True,
    "fad": False,
    "kl": False,
    "kad": False,
}
JUDGED_BY = ("acc", "fad", "kl", "is", "control")
FIRST = "acc"  # decides the sentence
MARGIN = 0.1  # of the second one's mean: two figures that differ by less are alike
RULE = (
    "Every seed gives one difference between two rows, whose models saw the same items in the same order and whose "
    "sounds began with the same noise. The interval is that of the mean difference over seeds, 95 %, by Student's t "
    "distribution. *A is better than B* holds if the whole interval lies on A's side of zero, does not hold if it lies "
    "on B's, and is undecided otherwise. *A and B are alike* holds if the whole interval lies within a tenth of B's "
    "mean around zero, does not hold if it lies outside of that, and is undecided otherwise. The sentence is about "
    "ACC; what the same rule says by the other figures stands beside it."
)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval; NaN bounds for a single seed."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: `first` is better than `second`, or both are alike."""

    text: str
    kind: Kind
    first: Cell
    second: Cell
    papers: bool = True  # else it is a check of ours


def interval(values: Sequence[float]) -> Interval:
    """The mean of one value per seed with its 95 % interval, by Student's t distribution."""
    found = mean_of(np.array(values, np.float64))
    return Interval(found.value, found.low, found.high, found.count)


def judge_better(difference: Interval) -> Verdict:
    """Whether the first is better; the difference is first minus second, signed so that more is better."""
    if difference.seeds < 2:
        return "not measured"
    return "holds" if difference.low > 0 else "does not hold" if difference.high < 0 else "undecided"


def judge_alike(difference: Interval, margin: float) -> Verdict:
    """Whether both are alike: closer to each other than `margin`."""
    if difference.seeds < 2:
        return "not measured"
    if -margin < difference.low and difference.high < margin:
        return "holds"
    return "does not hold" if difference.low > margin or difference.high < -margin else "undecided"


def judge_claim(
    claim: Claim, figures: Mapping[str, Mapping[int, Mapping[str, float]]], metric: str
) -> tuple[Verdict, Interval | None]:
    """The verdict on a claim by one metric, and the difference first minus second as the metric has it.

    Args:
        claim: what is claimed.
        figures: name of a cell -> seed -> metric -> value.
        metric: a key of `HIGHER_IS_BETTER`.
    """
    first, second = (figures.get(cell.name, {}) for cell in (claim.first, claim.second))
    seeds = [seed for seed in first if metric in first[seed] and metric in second.get(seed, {})]
    if not seeds:
        return "not measured", None
    found = interval([first[seed][metric] - second[seed][metric] for seed in seeds])
    if claim.kind == "alike":
        margin = MARGIN * abs(math.fsum(second[seed][metric] for seed in seeds) / len(seeds))
        return judge_alike(found, margin), found
    signed = found if HIGHER_IS_BETTER[metric] else Interval(-found.mean, -found.high, -found.low, found.seeds)
    return judge_better(signed), found


def build_claims() -> tuple[Claim, ...]:
    """The paper's claims about its tables 3, 4, 5, 6 and 8, and checks that they need."""
    ours, text = Cell(OURS), Cell(OURS, by="text")
    additive, matched = Cell("additive"), Cell("threshold_0.6")
    worse = "worse than dot-product attention of one head"
    return (
        Claim("Masks may replace dot-product attention at test time (table 3, iv)", "alike", ours, text),
        Claim(f"Additive attention under masks is {worse} (table 3, iii)", "better", ours, additive),
        Claim(
            "Masks are no replacement for additive attention: its own text attention is better (section 4.3)",
            "better",
            Cell("additive", by="text"),
            additive,
        ),
        Claim("Fine-tuning is better than frozen diffusion (table 3, i)", "better", ours, Cell("frozen")),
        Claim("Under masks, one head is better than several (table 3, ii)", "better", ours, Cell("multi_head")),
        Claim(
            "Several heads bring text and sound closer together (section 4.3)",
            "better",
            Cell("multi_head", by="text"),
            text,
        ),
        Claim("Text queries are better than audio queries (table 3, v)", "better", ours, Cell("audio_query")),
        Claim("Training without masks is better than with masks (table 3, vi)", "better", ours, Cell("mask_training")),
        Claim("Positions help (table 6)", "better", ours, Cell("no_positions")),
        *(
            Claim(f"Guidance of 2 is better than of {scale:g} (table 4)", "better", ours, other)
            for scale in (1.0, 1.5, 2.5, 3.0)
            for other in [Cell(OURS, cfg=scale)]
        ),
        *(
            Claim(f"More precise masks are better: perfect against {name} (table 8)", "better", ours, other)
            for name, other in (
                ("noisy logits", Cell(OURS, masks="noisy")),
                ("GrabCut", Cell(OURS, masks="grabcut")),
                ("the segmenter", Cell(OURS, masks="segmenter")),
            )
        ),
        *(
            Claim(
                f"A threshold of 0.6 is better than of {other} (table 5)", "better", matched, Cell(f"threshold_{other}")
            )
            for other in ("0.4", "0.5", "0.7", "0.8")
        ),
        Claim(
            "A threshold of 0.6 is better than all clips, half of them with foreign sounds",
            "better",
            matched,
            Cell("threshold_0"),
            papers=False,
        ),
        *(
            Claim(f"{name}: a mask is better than none (even weights)", "better", cell, whole, papers=False)
            for name, cell in (("Dot product", ours), ("Additive", additive), ("Multi-head", Cell("multi_head")))
            for whole in [Cell(cell.training, masks=WHOLE)]
        ),
    )
