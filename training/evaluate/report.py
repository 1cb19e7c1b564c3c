"""Features of systems and reference to figures, as report.json has them: by one model, or by several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import control, scores
from .audiovisual import METRICS, AudioVisualModel
from .features import FeatureModel
from .folders import Side, pairs, problems
from .frechet import fad_infinity
from .images import ImageSide
from .intervals import Figure
from .labels import Labels
from .metrics import NO_CLASSES, Labelled, Resampled, lazy, resample_alone, resample_metrics, weights_of, windows_of

BY_EMBEDDINGS = ("fad", "fad_infinity", "kad", "cosine")  # the others of a feature model need its classes
NO_MODEL = (
    "There is no encoder of images and sounds among the models; `sounding fetch` brings openl3 (AVC), imagebind (IB) "
    "and wav2clip (CS)."
)
NO_IMAGES = "There are no images; give --images."


@dataclass(frozen=True)
class SoundFeatures:
    """All folders by one model of sounds."""

    model: FeatureModel
    seconds: float  # that sounds were cut or padded to
    systems: list[Side]
    reference: Side
    labels: Labels | None = None  # by this model's classes


@dataclass(frozen=True)
class AudioVisualFeatures:
    """All folders, and the items' images, by one model of sounds and images."""

    model: AudioVisualModel
    seconds: float
    systems: list[Side]
    reference: Side
    images: ImageSide


def measure(
    sides: Sequence[Side],
    reference: Side,
    classes: Sequence[str],
    labels: Labelled | None = None,
    *,
    resamples: int = 200,
    others: Labelled | None = None,
) -> dict[str, Any]:
    """Figures by one model of sounds, as JSON has them: of every system, and differences between the first and others.

    Args:
        sides: the systems.
        reference: real sounds of the same items.
        classes: the model's, none where it has no logits.
        labels: class numbers of each item's selected object.
        resamples: for the 95 % intervals.
        others: class numbers of the objects in the image that are not selected, for `control`.
    """
    report: dict[str, Any] = {"systems": [], "differences": []}
    backgrounds = {name for name in others or () if not (labels or {}).get(name)}
    whole: list[tuple[list[str], Resampled, control.ByItem]] = []
    for side in sides:
        names = pairs(side, reference)
        found = resample_metrics(side, reference, names, weights_of(names, resamples), classes, labels)
        figures = found.figures()
        try:
            made, real = (windows_of(one.store, names) for one in (side, reference))
            figures["fad_infinity"] = replace(fad_infinity(made, real, resamples=resamples), count=len(names))
        except ValueError as error:
            found.not_computed["fad_infinity"] = str(error)
        met, chance = _controls(side, classes, labels, others, figures, found)
        whole.append((names, found, met))
        report["systems"].append(
            {
                "name": side.name,
                "folder": str(side.folder),
                "pairs": len(names),
                "figures": plain(figures),
                "chance": chance,
                "not_computed": found.not_computed,
                "sounds": {kind: found for kind, found in problems(side, reference, backgrounds) if found},
                "unreadable": side.unreadable,
            }
        )
    for side, (its_names, other, other_met) in list(zip(sides, whole, strict=True))[1:]:
        names, first, first_met = whole[0]
        if names != its_names:
            names = sorted(set(names) & set(its_names))
            weights = weights_of(names, resamples)
            first, other = (resample_metrics(s, reference, names, weights, classes, labels) for s in (sides[0], side))
        found_differences = first.minus(other)
        for name in control.CONTROLS:
            if first_met[name].keys() & other_met[name].keys():
                found_differences[name] = control.difference(first_met[name], other_met[name], resamples)
        report["differences"].append(
            {"of": [sides[0].name, side.name], "pairs": len(names), "figures": plain(found_differences)}
        )
    names = sorted(reference.usable())
    alone = resample_alone(reference, names, weights_of(names, resamples), classes, labels)
    figures = alone.figures()
    _controls(reference, classes, labels, others, figures, alone)
    report["reference"] = {
        "folder": str(reference.folder),
        "sounds": len(names),
        "figures": plain(figures),
        "unreadable": reference.unreadable,
    }
    return report


def _controls(
    side: Side,
    classes: Sequence[str],
    labels: Labelled | None,
    others: Labelled | None,
    figures: dict[str, Figure],
    found: Resampled,
) -> tuple[control.ByItem, dict[str, float]]:
    """Put the controls' figures, or why there are none; which items meet them, and their chances."""
    met = control.controls(side, labels, others) if classes and labels and others else {n: {} for n in control.CONTROLS}
    for name, items in met.items():
        if items:
            figures[name] = control.share(items)
        else:
            found.not_computed[name] = (
                "The labels name no item's other objects (column others), or no sound is of such an item."
                if classes
                else NO_CLASSES
            )
    return met, control.chances(met, others or {}, len(classes))


def measure_models(
    by_sounds: Sequence[SoundFeatures],
    by_images: Sequence[AudioVisualFeatures],
    *,
    resamples: int = 200,
    no_images: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures by all models, as JSON has them.

    `figures` of a system are those of the table: of metrics that need classes by the first model that has some, of
    those that compare embeddings by VGGish if it is among the models, as in the paper, else by the first one.
    `by_model` has all of them, by the models' names. `no_images` says why metrics of sounds and images have no model.
    """
    reports = [
        measure(
            one.systems,
            one.reference,
            one.model.classes,
            one.labels.own if one.labels else None,
            others=one.labels.others if one.labels else None,
            resamples=resamples,
        )
        for one in by_sounds
    ]
    by_classes = next((at for at, one in enumerate(by_sounds) if one.model.classes), 0)
    by_embeddings = next((at for at, one in enumerate(by_sounds) if one.model.name.startswith("VGGish")), 0)
    report = reports[0]
    views = [(by_sounds[at].model.name, reports[at]) for at in range(len(by_sounds))]
    merged: dict[str, Any] = {
        "models": [*map(_described, by_sounds), *map(_described, by_images)],
        "figures_by": {"classes": views[by_classes][0], "embeddings": views[by_embeddings][0]},
        "systems": [],
        "differences": [],
        "reference": dict(report["reference"]),
    }
    for kind in ("systems", "differences"):
        for at, entry in enumerate(report[kind]):
            own = [(name, one[kind][at]) for name, one in views]
            merged[kind].append(entry | _merged(own, by_classes, by_embeddings))
    merged["reference"] |= _merged([(n, one["reference"]) for n, one in views], by_classes, by_embeddings)
    for one in by_images:
        _add_audiovisual(merged, one, resamples)
    for system in merged["systems"]:
        for metric in METRICS:
            if metric not in system["figures"]:
                system["not_computed"].setdefault(metric, (no_images or {}).get(metric, NO_MODEL))
    return merged


def _described(one: SoundFeatures | AudioVisualFeatures) -> dict[str, Any]:
    described = {"name": one.model.name, "rate": one.model.rate, "seconds": one.seconds, "width": one.model.width}
    if isinstance(one, AudioVisualFeatures):
        return described | {"metric": one.model.metric, "scale": one.model.scale}
    return described | {
        "classes": len(one.model.classes),
        "unknown_labels": one.labels.unknown if one.labels else [],
    }


def _merged(own: list[tuple[str, dict[str, Any]]], by_classes: int, by_embeddings: int) -> dict[str, Any]:
    """What several models found for one system: the table's figures, and all by model."""

    def choose(key: str) -> dict[str, Any]:
        chosen = {name: value for name, value in own[by_classes][1].get(key, {}).items() if name not in BY_EMBEDDINGS}
        embeddings = own[by_embeddings][1].get(key, {})
        return chosen | {name: embeddings[name] for name in BY_EMBEDDINGS if name in embeddings}

    keys = [key for key in ("figures", "not_computed", "chance") if key in own[0][1]]
    by_model = {name: {key: entry[key] for key in keys} for name, entry in own}
    return {key: choose(key) for key in keys} | {"by_model": by_model}


def _add_audiovisual(report: dict[str, Any], features: AudioVisualFeatures, resamples: int) -> None:
    """Add the figure of a model of sounds and images to every system, to differences, and to the reference."""
    metric, usable = features.model.metric, features.images.usable()

    def found(side: Side, names: list[str]) -> Resampled:
        result = Resampled(weights_of(names, resamples))
        sounds, images = (lazy(one.embeddings, one, names) for one in (side.store, features.images.store))

        def cosines() -> Any:
            if not names:
                raise ValueError("No pair of sounds has an image.")
            return features.model.scale * scores.cosines(sounds, images)

        result.mean(metric, cosines)
        return result

    def put(entry: dict[str, Any], figures: dict[str, Figure], why: dict[str, str] | None = None) -> None:
        entry["figures"] = plain(figures) | entry["figures"]  # of two models of one metric the first counts
        entry["by_model"][features.model.name] = {"figures": plain(figures)}
        if why is not None:
            entry["not_computed"] = why | entry["not_computed"]
            entry["by_model"][features.model.name]["not_computed"] = why

    named = [sorted(set(pairs(side, features.reference)) & usable) for side in features.systems]
    results = [found(side, names) for side, names in zip(features.systems, named, strict=True)]
    for system, side, result in zip(report["systems"], features.systems, results, strict=True):
        put(system, result.figures(), result.not_computed)
        system.setdefault("without_image", {}).update(
            {
                name: features.images.without[name]
                for name in pairs(side, features.reference)
                if name in features.images.without
            }
        )
    for at, entry in enumerate(report["differences"], 1):
        first, other, names = results[0], results[at], named[0]
        if names != named[at]:
            names = sorted(set(names) & set(named[at]))
            first, other = found(features.systems[0], names), found(features.systems[at], names)
        put(entry, first.minus(other))
    real = found(features.reference, sorted(features.reference.usable() & usable))
    put(report["reference"], real.figures())


def plain(figures: dict[str, Figure]) -> dict[str, dict[str, float | int | None]]:
    """Figures as JSON has them: no NaN."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        name: {
            "value": finite(found.value),
            "low": finite(found.low),
            "high": finite(found.high),
            "count": found.count,
        }
        for name, found in figures.items()
    }
