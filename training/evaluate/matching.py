"""How well a matching network tells matches from mismatches (appendix B.1): accuracy, ROC, scores, thresholds.

Every clip is scored once with its own sound and once with another clip's: the sounds are passed on in a circle of a
random order, so that each is heard in one match and one mismatch. Intervals are over clips (`intervals`): a resample
has a clip's match and its mismatch equally often.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sounding.utils.files import replacing, write_atomic

from .intervals import Array, Figure, draw_weights, figure, weighted_means

if TYPE_CHECKING:
    from ..data.shard_folders import Folders
    from ..matching.network import MatchingNetwork

PUBLISHED = {"matched": 0.91, "mismatched": 0.85}  # accuracies of the paper, on 100 pairs each
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8)  # of table 5
BINS = 20
AT_ONCE = 64


@dataclass(frozen=True)
class Scores:
    """Probabilities [N] of N clips with their own sounds, and with another's."""

    matched: Array
    mismatched: Array

    def __post_init__(self) -> None:
        if self.matched.shape != self.mismatched.shape or self.matched.ndim != 1 or len(self.matched) < 2:
            raise ValueError(
                f"Scores of {self.matched.shape} matches and {self.mismatched.shape} mismatches came, but as many of "
                "both, 2 or more, are expected."
            )


def score_pairs(network: MatchingNetwork, folders: Folders, *, seed: int = 0, clips: int = 0) -> Scores:
    """Scores of the first `clips` clips of shards of tokens (0: of all).

    Raises:
        ValueError: other shards, or tokens of other encoders than the network's.
    """
    from ..matching.tokens import open_tokens, video_of

    shards, visual, audio = open_tokens(folders)
    for made, wanted in ((visual, network.config.visual), (audio, network.config.audio)):
        if dataclasses.replace(made, encoder=wanted.encoder) != wanted:
            raise ValueError(
                f"{shards.named} holds tokens of {made.encoder} that the network was not trained on "
                f"({wanted.encoder}); prepare them with the same encoders."
            )
    count = min(clips, len(shards)) if clips else len(shards)
    if count < 2:
        raise ValueError(f"{shards.named} has {count} clips to score, but 2 or more are expected.")
    other = in_circle([video_of(clip) for clip in shards.ids()[:count]], seed)
    found: list[list[np.ndarray]] = [[], []]
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        rows = [shards[number] for number in numbers]
        seen, own = ([row[name].float() for row in rows] for name in ("visual_tokens", "audio_tokens"))
        others = [shards[int(other[number])]["audio_tokens"].float() for number in numbers]
        for scores, heard in zip(found, (own, others), strict=True):
            scores.append(_probabilities(network, seen, heard))
    return Scores(*(np.concatenate(scores).astype(np.float64) for scores in found))


def _probabilities(network: MatchingNetwork, seen: list[Tensor], heard: list[Tensor]) -> np.ndarray:
    """Of clips with sounds, all at once where they have one length."""
    from ..matching.score import clip_probability

    if len({(each.shape, other.shape) for each, other in zip(seen, heard, strict=True)}) == 1:
        return clip_probability(network, torch.stack(seen), torch.stack(heard)).numpy()
    pairs = zip(seen, heard, strict=True)
    return np.concatenate([clip_probability(network, each[None], other[None]).numpy() for each, other in pairs])


def in_circle(videos: list[str], seed: int) -> np.ndarray:
    """For each clip one of another video, whose sound it gets; each gives its own away once. `videos`: of all clips.

    Raises:
        ValueError: more than half of the clips are of one video.
    """
    count, most = len(videos), max(Counter(videos).values())
    if 2 * most > count:
        raise ValueError(f"{most} of {count} clips are of one video, but at most half are expected; take others.")
    draws = np.random.default_rng([seed, count])
    places = {video: place for place, video in enumerate(draws.permutation(sorted(set(videos))).tolist())}
    # Clips of a video side by side, so that a step as long as the longest such row always leads to another video.
    order = np.array(sorted(draws.permutation(count).tolist(), key=lambda clip: places[videos[clip]]))
    other = np.empty(count, np.int64)
    other[order] = np.roll(order, most)
    return other


def measure(scores: Scores, *, threshold: float, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All figures as JSON: accuracies at `threshold` beside the paper's, area under the ROC, the ROC itself,
    a histogram (figure 7), and for each of the paper's thresholds what is kept (table 5).
    """
    from sklearn.metrics import roc_curve

    weights = draw_weights(len(scores.matched), resamples, seed)
    points = thresholds(scores, sorted({*THRESHOLDS, threshold}), weights)
    at = next(point for point in points if point["threshold"] == threshold)
    labels = np.repeat([1, 0], len(scores.matched))
    false, true, _ = roc_curve(labels, np.concatenate([scores.matched, scores.mismatched]))
    edges = np.linspace(0, 1, BINS + 1)
    return {
        "clips": len(scores.matched),
        "threshold": threshold,
        "matched": at["matched"],
        "mismatched": at["mismatched"],
        "published": PUBLISHED,
        "auc": _json(area(scores, weights)),
        "roc": {"false": false.tolist(), "true": true.tolist()},
        "histogram": {
            "edges": edges.tolist(),
            "matched": np.histogram(scores.matched, edges)[0].tolist(),
            "mismatched": np.histogram(scores.mismatched, edges)[0].tolist(),
        },
        "thresholds": points,
    }


def thresholds(scores: Scores, values: list[float], weights: Array) -> list[dict[str, Any]]:
    """For each threshold the accuracy on matches and on mismatches and, of a collection half of whose clips have
    foreign sounds, the share that is kept and the share of true matches among these.
    """
    points = []
    for value in values:
        kept, wrong = (part >= value for part in (scores.matched, scores.mismatched))
        right, foreign = (weighted_means(part.astype(np.float64), weights) for part in (kept, wrong))
        with np.errstate(invalid="ignore"):
            purity = right / (right + foreign)  # NaN where nothing is kept
        count = len(kept)
        points.append(
            {
                "threshold": value,
                "matched": _json(figure(right, count)),
                "mismatched": _json(figure(1 - foreign, count)),
                "kept": _json(figure((right + foreign) / 2, count)),
                "true_among_kept": _json(figure(purity, count)),
            }
        )
    return points


def area(scores: Scores, weights: Array) -> Figure:
    """Area under the ROC."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], len(scores.matched))
    both = np.concatenate([scores.matched, scores.mismatched])
    drawn = [roc_auc_score(labels, both, sample_weight=np.tile(row, 2)) for row in weights]
    return figure(np.array(drawn), len(scores.matched))


def _json(found: Figure) -> dict[str, float | int | None]:
    """A figure without NaN, which JSON has no word for."""
    return {name: None if value != value else value for name, value in dataclasses.asdict(found).items()}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["| figure | value | 95 % interval | paper |", "| --- | --- | --- | --- |"]
    at = f"at threshold {report['threshold']:g}"
    for name, key in ((f"accuracy on matches, {at}", "matched"), (f"accuracy on mismatches, {at}", "mismatched")):
        lines.append(f"| {name} | {_shown(report[key])} | {PUBLISHED[key]:.2f} |")
    lines.append(f"| area under the ROC | {_shown(report['auc'])} | |")
    lines += ["", f"{report['clips']} clips, each with its own sound and with another's.", ""]
    lines += ["| threshold | matches right | mismatches right | kept of both | true among kept |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for point in report["thresholds"]:
        cells = (point[key] for key in ("matched", "mismatched", "kept", "true_among_kept"))
        lines.append(f"| {point['threshold']:g} | " + " | ".join(_spread(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _shown(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} | " + ("" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}")


def _spread(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "none kept"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write report.json, table.md, and scores.png with the histogram (figure 7) and the ROC, into `out`."""
    write_atomic(out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomic(out / "table.md", table(report).encode())
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(10, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    histogram = report["histogram"]
    for name, colour in (("mismatched", "tab:orange"), ("matched", "tab:blue")):
        left.stairs(histogram[name], histogram["edges"], fill=True, alpha=0.5, color=colour, label=name)
    left.axvline(report["threshold"], color="black", linestyle="--", label=f"threshold {report['threshold']:g}")
    left.set(xlabel="matching score", ylabel="clips", title="Scores")
    left.legend()
    right.plot(report["roc"]["false"], report["roc"]["true"])
    right.plot([0, 1], [0, 1], color="grey", linestyle=":")
    right.set(xlabel="mismatches kept", ylabel="matches kept", title=f"ROC, area {report['auc']['value']:.3f}")
    with replacing(out / "scores.png") as temporary:
        canvas.savefig(temporary, dpi=110, format="png")
