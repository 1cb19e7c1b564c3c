"""One cell's sounds and figures: a model, the items, and a way of selecting their objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.audio.files import write_audio
from sounding.grounding import Condition, Source, match_moments
from sounding.model import SoundingModel

from ...data.shard_format import SAMPLE_RATE
from ...evaluate.control import controls, share
from ...evaluate.features import FeatureModel
from ...evaluate.folders import Side, compute_features, pairs
from ...evaluate.metrics import resample_metrics, weights_of
from ...finetune.retrieval import sound_of
from .material import Labels, Material
from .rows import Cell
from .settings import AblationSettings

OnStep = Callable[[int, int], None]
NOISES = 10_000  # of one seed
METRICS = {"acc": "acc", "fad": "fad", "kl": "kl_audioldm_eval", "is": "is", "kad": "kad"}  # their keys in reports


@torch.inference_mode()
def condition_of(model: SoundingModel, material: Material, cell: Cell) -> Condition:
    """The condition of every item: tokens [N, 1, D] and weights [N, P].

    Raises:
        ValueError: masks of this kind could not be made.
    """
    grounding = model.grounding
    attended = grounding.by_query(material.queries, material.patches)
    if cell.by == "text":
        return attended
    if cell.masks not in material.coverages:
        raise ValueError(material.missing.get(cell.masks, f"There are no masks of the kind {cell.masks!r}."))
    deviation: Tensor = grounding.weight_std.float()
    if cell.deviation == "query":
        deviation = attended.weights.std(dim=-1, unbiased=False, keepdim=True)
    weights = match_moments(material.coverages[cell.masks], deviation, clamp=cell.clamp)
    tokens = grounding.gather(weights[:, None], material.patches)
    source: Source = "mask"
    return Condition(tokens, weights, torch.ones(len(tokens)), (source,) * len(tokens))


def make_sounds(
    model: SoundingModel,
    material: Material,
    cell: Cell,
    seed: int,
    settings: AblationSettings,
    folder: Path,
    on_step: OnStep | None = None,
) -> None:
    """Write the cell's sound of each item, `folder/NAME.wav`; those that are there stay.

    The noise of an item depends on its number and `seed` alone, so that cells differ in nothing else.
    """
    condition, seconds = condition_of(model, material, cell), model.config.train_seconds
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(material.names):
        file = folder / f"{name}.wav"
        if not file.is_file():
            own = Condition(
                condition.tokens[number][None], condition.weights[number][None], torch.ones(1), (condition.sources[0],)
            )
            latents = model.sample(
                own,
                model.noise(seconds, [seed * NOISES + number]),
                steps=settings.sampling_steps,
                cfg=cell.cfg,
            )
            write_audio(file, sound_of(model, latents, seconds)[0], SAMPLE_RATE)
        if on_step:
            on_step(number + 1, len(material.names))


def measure_sounds(
    folder: Path, reference: Side, judge: FeatureModel, labels: Labels, seconds: float, out: Path
) -> dict[str, Any]:
    """Figures of a folder of sounds, and what could not be computed.

    "control" is the share of items with several objects in which the judge holds the selected one for likelier than
    all others; "top1" and "top5" rank it among all classes.

    Args:
        folder: of the sounds.
        reference: real sounds of the same names.
        judge: a model with classes.
        labels: of the items.
        seconds: that is heard.
        out: for the features.
    """
    side = compute_features(folder.name, folder, judge, seconds, out)
    names = pairs(side, reference)
    number = {name: at for at, name in enumerate(judge.classes)}
    selected, others = ({name: [number[label] for label in labels[name][part]] for name in names} for part in (0, 1))
    found = resample_metrics(side, reference, names, weights_of(names, 0), judge.classes, selected)
    figures = {metric: float(found.values[key][0]) for metric, key in METRICS.items() if key in found.values}
    logits = side.store.logits[side.store.rows(names)]
    best = np.array([row[selected[name]].max() for name, row in zip(names, logits, strict=True)])
    ranks = (logits > best[:, None]).sum(axis=1)
    figures |= {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean())}
    met = controls(side, selected, others)["control"]
    if met:
        figures["control"] = share(met).value
    return {
        "figures": {metric: value for metric, value in figures.items() if math.isfinite(value)},
        "counts": {"items": len(names), "control": len(met)},
        "not_computed": {
            metric: found.not_computed[key] for metric, key in METRICS.items() if key in found.not_computed
        },
        "unreadable": side.unreadable,
    }


@torch.inference_mode()
def attention_figures(model: SoundingModel, material: Material) -> dict[str, float]:
    """How attention and masks look to a model: deviation of the weights, share of the attention on the object, and what
    share there would be by chance.
    """
    weights = model.grounding.by_query(material.queries, material.patches).weights
    inside = (material.coverages["perfect"] > 0.3).float()
    return {
        "weight_std": float(model.grounding.weight_std),
        "on_object": float((weights * inside).sum(dim=-1).mean()),
        "on_object_by_chance": float(inside.mean()),
    }
