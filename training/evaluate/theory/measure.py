"""Theorem 3.1 on drawn scenes: its quantities, its lemma, and both sides of equation 6.

f*, V* and the value v are not known of any real model, so the bound is evaluated in two readings.

- "trained": f* = f and V* = V. The terms B and C of the proof and eps_V and eps_f are 0; A, D and E remain.
- "true": f* reaches the best value, 0, for every query, and V* is `queries.TrueValues`. Then A and B are 0, since f*
  cannot be improved on, and eps_f is what the trained model lacks with its own attention. That f* is L_f-Lipschitz,
  too, is assumed.

In both, L_f is an estimate from below: the steepest local slope or secant that was met.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from .lipschitz import local_slope, mlp_limit
from .quantities import Constants, Lemma, bound, entropy, info_nce, l1, lemma, row_norm, shared, top_overlap
from .queries import Query, TrueValues, check_model, seen_queries, weightings
from .sounds import Sampled, Value

log = logging.getLogger("training")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        scenes: queries whose attention is measured.
        reference: scenes that V* is fitted to.
        sounds: queries that sounds are made of, the first ones.
        slopes: queries at which L_f is estimated.
        seconds, steps, cfg: of the sounds; a cfg of None is the checkpoint's own.
    """

    scenes: int = 120
    reference: int = 150
    sounds: int = 24
    slopes: int = 2
    seconds: float = 2.56
    steps: int = 10
    cfg: float | None = None


def measure(model: SoundingModel, data: ObjectSet, settings: Settings) -> tuple[Figures, list[Query]]:
    """All figures, and the queries that they are of.

    Raises:
        ValueError: the theorem is not about such a model, or sounds cannot be made with such settings.
    """
    check_model(model)
    model.config.latent_frames(settings.seconds)
    if settings.steps >= model.config.diffusion.train_steps:
        most = model.config.diffusion.train_steps - 1
        raise ValueError(f"steps is {settings.steps}, but 1 to {most} is expected; 10 do for this.")
    if settings.cfg is not None and not 0 <= settings.cfg < float("inf"):
        raise ValueError(f"cfg is {settings.cfg}, but a number of 0 or more is expected; the paper uses 2.")
    model.requires_grad_(False)
    queries = list(seen_queries(model, data, settings.scenes))
    log.info("%d scenes seen", len(queries))
    p, log_u = torch.stack([query.p for query in queries]), torch.stack([query.log_u for query in queries])
    lemma_found = lemma(p, log_u)
    true_values = TrueValues(model, data, settings.reference)
    values = value_figures(queries, true_values)
    log.info("V* fitted to %d scenes", settings.reference)
    figures: Figures = {
        "settings": asdict(settings),
        "premises": premises(model),
        "attention": attention_figures(queries, p, log_u, lemma_found),
        "masks": mask_figures(model, queries),
        "values": values,
    }
    if settings.sounds:
        figures["equation 6"] = gap_figures(model, data, queries[: settings.sounds], settings, figures)
    return figures, queries


def premises(model: SoundingModel) -> Figures:
    """Where the checkpoint is what the theorem is about, and where it is not."""
    given = model.config.grounding
    return {
        "attention": f"{given.scoring}, {given.heads} head",
        "positions in keys and values": given.positions,
        "share of training with masks instead of attention": given.mask_training,
        "masks are clamped": given.clamp_weights,
        "norms of conditions are matched": given.norm_matching,
    }


def attention_figures(queries: list[Query], p: Tensor, log_u: Tensor, found: Lemma) -> Figures:
    """Attention against the true masks, and the lemma."""
    u, coverage = log_u.exp(), torch.stack([query.coverage for query in queries])
    even = torch.full_like(p, 1 / p.shape[1])
    used = found.limit > 0
    return {
        "E|u - p|_1": interval(found.distance),
        "E|even weights - p|_1": float(l1(even, p).mean()),
        "InfoNCE": float(info_nce(p, log_u).mean()),
        "least InfoNCE": float(entropy(p).mean()),
        "eps_contrast": found.eps_contrast,
        "eps_contrast of even weights": float((even.log().neg() * p).sum(dim=-1).sub(entropy(p)).mean()),
        "lemma limit": found.mean_limit,
        "lemma violations": found.violations,
        "lemma tightness": found.mean_distance / found.mean_limit if found.mean_limit else 1.0,
        "lemma tightness per scene": interval((found.distance / found.limit.clamp(min=1e-12))[used])
        if used.any()
        else None,
        "scenes where the limit is 2 or more": float((found.limit >= 2).double().mean()),
        "overlap sum min(u, p)": interval(shared(u, p)),
        "overlap IoU of as many patches": interval(top_overlap(u, coverage)),
    }


def mask_figures(model: SoundingModel, queries: list[Query]) -> Figures:
    """eps_sam by source of the mask and by its form, and how far m is from attention, which training had."""
    figures: Figures = {}
    found = [query for query in queries if query.found is not None]
    if model.segmenter is not None:
        figures["clicks without a mask"] = len(queries) - len(found)
    for source, rows in (("true mask", queries), ("one click", found)):
        for form in ("normalised", "matched", "clamped") if rows else ():
            m = torch.stack([weightings(model, _cover(query, source))[form] for query in rows])
            p = torch.stack([query.p for query in rows])
            u = torch.stack([query.log_u for query in rows]).exp()
            figures[f"{source}, {form}"] = {
                "eps_sam = E|m - p|_1": interval(l1(m, p)),
                "E|m - u|_1": interval(l1(m, u)),
                "scenes with negative weights": float((m.amin(dim=-1) < 0).double().mean()),
            }
    return figures


def _cover(query: Query, source: str) -> Tensor:
    return query.found if source == "one click" and query.found is not None else query.coverage


def value_figures(queries: list[Query], true_values: TrueValues) -> Figures:
    """eps_V and B_v. Weightings sum to 1, so in A and E the rows' mean may be taken off V, which makes B_v smaller."""
    own = torch.stack([query.values for query in queries])
    true = torch.stack([true_values(query) for query in queries])
    centred = row_norm(own - own.mean(dim=1, keepdim=True)), row_norm(true - true.mean(dim=1, keepdim=True))
    return {
        "eps_V": interval(row_norm(own - true)),
        "mean row of V - V*": float((own - true).norm(dim=-1).mean()),
        "mean row of V": float(own.norm(dim=-1).mean()),
        "explained by V*": float(1 - (own - true).square().sum() / (own - own.mean(dim=(0, 1))).square().sum()),
        "B_v": float(torch.maximum(row_norm(own), row_norm(true)).max()),
        "B_v with the mean row taken off": float(torch.maximum(*centred).max()),
    }


def gap_figures(
    model: SoundingModel, data: ObjectSet, queries: list[Query], settings: Settings, figures: Figures
) -> Figures:
    """Both sides of equation 6, with and without the norm matching of conditions where the checkpoint has it."""
    value = Value.of_recordings(model, data, settings.seconds)
    log.info("recordings of %d objects described", len(value.centres))
    found: Figures = {
        "distance between objects": value.apart(),
        "L_v in the sound": value.in_sound,
        "L_v in the mask": value.in_mask,
        "limit of the MLP's slope": mlp_limit(model.grounding.mlp),
    }
    own = "clamped" if model.config.grounding.clamp_weights else "matched"
    for norm_matching in (False, True) if model.config.grounding.norm_matching else (False,):
        name = "with norm matching" if norm_matching else "without norm matching"
        for form in (own, "matched") if own == "clamped" and not norm_matching else (own,):
            found[f"{form} masks, {name}"] = _one_gap(model, value, queries, settings, figures, form, norm_matching)
            log.info("%s masks, %s", form, name)
    return found


def _one_gap(
    model: SoundingModel,
    value: Value,
    queries: list[Query],
    settings: Settings,
    figures: Figures,
    form: str,
    norm_matching: bool,
) -> Figures:
    own = model.config.sampling(settings.steps, settings.cfg, plain=False)
    rows, secants, slopes, mlp_slopes, sources = [], [], [], [], []
    weight = next(model.grounding.parameters())
    for number, query in enumerate(queries):
        f = Sampled(
            model,
            query.index,
            seconds=settings.seconds,
            steps=settings.steps,
            cfg=own.cfg,
            sampler=own.sampler,
            norm_matching=norm_matching,
        )
        source = "true mask" if query.found is None else "one click"
        m, u = weightings(model, _cover(query, source))[form], query.log_u.exp()
        points = torch.stack([query.p, u, m]) @ query.values
        attended = points.to(weight)
        with torch.no_grad():
            made = [f(point[None]) for point in attended]
        rows.append(
            [
                value(made[0], query, query.p),
                value(made[1], query, query.p),
                value(made[1], query, m),
                value(made[2], query, m),
            ]
        )
        for i, j in combinations(range(3), 2):
            apart = float((points[i] - points[j]).norm())
            if apart > 1e-6:
                secants.append(float((made[i] - made[j]).norm()) / apart)
        mlp_slopes += [local_slope(f.condition, point[None]) for point in attended]
        if number < settings.slopes:
            slopes.append(local_slope(f, attended[1][None], iterations=4))
        sources.append(float(l1(m, query.p)))
    true_p, attention, attention_by_m, by_m = torch.tensor(rows, dtype=torch.float64).T
    l_f = max(slopes + secants)
    shared_by_both = {
        "eps_sam": float(np.mean(sources)),
        "eps_contrast": float(lemma(*_stacked(queries)).eps_contrast),
        "b_v": figures["values"]["B_v"],
        "l_v": max(value.in_sound, value.in_mask),
        "l_f": l_f,
    }
    measured: Figures = {
        "sounds of": len(queries),
        "v(f(pV), p)": interval(true_p),
        "v(f(uV), p)": interval(attention),
        "v(f(mV), m)": interval(by_m),
        "L_f, secants": max(secants, default=0.0),
        "L_f, local slopes": max(slopes, default=0.0),
        "L of the MLP, local slopes": max(mlp_slopes, default=0.0),
    }
    gaps = {
        "trained": (true_p - by_m, Constants(eps_v=0.0, eps_f=0.0, **shared_by_both)),
        "true": (
            -by_m,
            Constants(eps_v=figures["values"]["eps_V"]["mean"], eps_f=-float(attention.mean()), **shared_by_both),
        ),
    }
    steps = {
        "trained": {"A": true_p - attention, "D": attention - attention_by_m, "E": attention_by_m - by_m},
        "true": {"C": -attention, "D": attention - attention_by_m, "E": attention_by_m - by_m},
    }
    for reading, (gap, constants) in gaps.items():
        terms = bound(constants)
        measured[reading] = {
            "err_test": interval(gap),
            "terms of the proof": {name: float(part.mean()) for name, part in steps[reading].items()},
            "constants": asdict(constants),
            "bound": terms,
            "bound with both L_v apart": with_both(constants, value),
            "bound over the worst value met": terms["total"] / max(1e-12, -float(torch.stack([by_m, true_p]).min())),
            "holds": float(gap.mean()) <= terms["total"] + 1e-6,
        }
    return measured


def with_both(constants: Constants, value: Value) -> float:
    """The bound with v's Lipschitz constant in the mask where the proof needs that one (D), and else that in the sound.

    The theorem has one constant for both, which is at least the greater one.
    """
    in_sound, in_mask = bound(replace(constants, l_v=value.in_sound)), bound(replace(constants, l_v=value.in_mask))
    return in_sound["total"] - in_sound["metric"] + in_mask["metric"]


def _stacked(queries: list[Query]) -> tuple[Tensor, Tensor]:
    return torch.stack([query.p for query in queries]), torch.stack([query.log_u for query in queries])


def interval(values: Tensor) -> Figures:
    """The mean, with a 95 % interval by the bootstrap over queries, and the range."""
    given = values.double().numpy()
    rng = np.random.default_rng(7)
    means = given[rng.integers(0, len(given), (2000, len(given)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "mean": float(given.mean()),
        "low": float(low),
        "high": float(high),
        "least": float(given.min()),
        "greatest": float(given.max()),
        "count": len(given),
    }
