"""Are objects called what they are, and mere backgrounds "unknown"?

    python -m training starter evaluate naming --photographs tests/photographs

names the objects of scenes by their masks and by the whole image, then backgrounds, then photographs. `calibrate` fits
the two numbers that make class scores probabilities; it sees the calibration half of `naming_cases` alone. How often a
name of some probability is right is told by `reliability`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sounding.naming.load import Namer
from sounding.naming.names import Labels, Named
from sounding.utils.files import replacing
from sounding.utils.libraries import importing

from ...data.object_set import ObjectSet
from .naming_cases import NamingCase, drawn_cases, photograph_cases

TOP = 5
BINS = 10
OUTCOMES = ("right", "general", "wrong", "unknown")
# What users select is mostly an object; calibration cares for backgrounds as for one case in five.
BACKGROUND_SHARE = 0.2


@dataclass(frozen=True)
class Answer:
    """What a namer makes of one selection."""

    names: tuple[str, ...]  # that count as right; none of a background
    shown: str
    named: Named
    lines: tuple[frozenset[str], ...]  # of the likeliest names, each with all more general ones

    @property
    def rank(self) -> int | None:
        """The place of the first right name among the likeliest ones, from 0; None where there is none."""
        right = [place for place, line in enumerate(self.lines) if line & set(self.names)]
        return right[0] if right else None


@dataclass
class Answers:
    """What a namer makes of selections by their masks, of the same by whole images, and how long a name took."""

    by_mask: list[Answer]
    by_image: list[Answer]
    seconds: float  # per name by mask


def lines_of(labels: Labels) -> dict[str, frozenset[str]]:
    """Each name with itself and all more general ones: what "robin" is, "bird" is right for as well."""
    return {
        name: frozenset(labels.names[i] for i in ancestors)
        for name, ancestors in zip(labels.names, labels.ancestors, strict=True)
    }


def ask(namer: Namer, cases: Iterable[NamingCase]) -> Answers:
    """Name every case twice."""
    lines = lines_of(namer.labels)
    found, seconds = Answers([], [], 0.0), []
    for case in cases:
        for answers, mask in ((found.by_mask, case.mask), (found.by_image, None)):
            started = time.perf_counter()
            (named,) = namer.name(case.image, mask, top=TOP)
            if mask is not None:
                seconds.append(time.perf_counter() - started)
            answers.append(Answer(case.names, case.shown, named, tuple(lines[name] for name, _ in named.top)))
    found.seconds = median(seconds)
    return found


def outcome(answer: Answer, lines: dict[str, frozenset[str]]) -> str:
    """Right, a more general name than the right one, wrong, or unknown; what has no name is rightly unknown."""
    given, names = answer.named.name, set(answer.names)
    if not answer.named.known:
        return "unknown"
    if lines[given] & names:
        return "right"
    return "general" if any(given in lines[name] for name in names) else "wrong"


def figures(found: Sequence[Answer], labels: Labels) -> dict[str, float | int]:
    """Shares of cases: the right name first or among five, and what the given name is."""
    lines, count = lines_of(labels), len(found)
    shares: dict[str, float | int] = {"cases": count}
    if any(answer.names for answer in found):
        ranks = [answer.rank for answer in found]
        shares["top-1"] = round(sum(rank == 0 for rank in ranks) / count, 3)
        shares[f"top-{TOP}"] = round(sum(rank is not None for rank in ranks) / count, 3)
    outcomes = [outcome(answer, lines) for answer in found]
    return shares | {each: round(outcomes.count(each) / count, 3) for each in OUTCOMES}


def reliability(found: Sequence[Answer]) -> list[dict[str, float | int]]:
    """Bins of the likeliest name's probability: its mean, and the share of names that are right.

    A background has no right name, so every probability that it gives to a name is too high.
    """
    probabilities = torch.tensor([answer.named.top[0][1] for answer in found])
    right = torch.tensor([float(answer.rank == 0) for answer in found])
    bins = (probabilities * BINS).long().clamp(max=BINS - 1)
    rows = []
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            means = probabilities[inside].mean().item(), right[inside].mean().item()
            rows.append({"cases": int(inside.sum()), "probability": round(means[0], 3), "right": round(means[1], 3)})
    return rows


def calibration_error(rows: Sequence[dict[str, float | int]]) -> float:
    """Expected calibration error (Guo et al. 2017): the mean distance of probability and share of right names."""
    total = sum(row["cases"] for row in rows)
    return round(sum(row["cases"] * abs(row["probability"] - row["right"]) for row in rows) / total, 3)


def calibrate(logits: Tensor, right: Tensor) -> tuple[float, float]:
    """The scale of class logits, and the logit of none of them, that make right names likeliest.

    Args:
        logits: [cases, classes] of `ClassNames.scores`, unscaled.
        right: [cases, classes] 1 for classes that count as right; no class of a background does.

    Returns:
        Scale and logit, by maximum likelihood (temperature scaling, Guo et al. 2017, with one more class).
    """
    background = ~right.any(dim=1)
    weights = torch.where(background, BACKGROUND_SHARE / background.sum(), (1 - BACKGROUND_SHARE) / (~background).sum())
    fitted = torch.tensor([0.0, 5.0], dtype=torch.float64, requires_grad=True)  # logarithm of the scale, logit
    logits, classes = logits.double(), torch.cat([right, background[:, None].to(right)], dim=1).double()
    optimizer = torch.optim.LBFGS([fitted], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        none = fitted[1].expand(len(logits), 1)
        shares = torch.cat([logits * fitted[0].exp(), none], dim=1).log_softmax(dim=-1)
        likelihood = shares.masked_fill(classes == 0, -torch.inf).logsumexp(dim=-1)
        total = -(likelihood * weights).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return float(fitted[0].detach().exp()), float(fitted[1].detach())


def evaluate(namer: Namer, stamps: ObjectSet, cutouts: Path, *, photographs: Path | None, cases: int) -> dict[str, Any]:
    """All figures of a namer on the test half and on photographs."""
    drawn = ask(namer, drawn_cases(stamps, cutouts, "test", cases))
    rows = reliability(drawn.by_mask)
    result: dict[str, Any] = {
        "scenes by mask": figures([one for one in drawn.by_mask if one.names], namer.labels),
        "scenes by whole image": figures([one for one in drawn.by_image if one.names], namer.labels),
        "backgrounds": figures([one for one in drawn.by_mask if not one.names], namer.labels),
        "reliability": rows,
        "calibration error": calibration_error(rows),
        "seconds per name": round(drawn.seconds, 4),
    }
    if photographs is not None:
        shown = ask(namer, photograph_cases(photographs))
        result["photographs by mask"] = figures([one for one in shown.by_mask if one.names], namer.labels)
        result["photographs by whole image"] = figures([one for one in shown.by_image if one.names], namer.labels)
        result["photographs"] = {
            one.shown: [one.named.name, round(one.named.probability, 3), one.named.top[0][0]] for one in shown.by_mask
        }
    return result


def draw_reliability(rows: Sequence[dict[str, float | int]], out: Path) -> None:
    """The calibration plot: share of right names over probability, one point per bin, its area by the cases in it."""
    with importing("matplotlib"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="probability of the likeliest name", ylabel="share that is right", aspect="equal")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    probability, right, cases = ([row[key] for row in rows] for key in ("probability", "right", "cases"))
    axes.plot(probability, right, color="tab:blue", linewidth=1)
    axes.scatter(probability, right, s=[max(8.0, 900 * count / sum(cases)) for count in cases], color="tab:blue")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
