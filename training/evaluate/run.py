"""`evaluate folders`: all is checked, every model computes features of every folder, and the report is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sounding.utils.files import write_atomic
from sounding.utils.messages import printable

from .audiovisual import AudioVisualModel, SoundSide
from .features import FeatureModel, open_model
from .folders import OnStep, Side, compute_features, find_sounds, pairs
from .images import ItemImages, embed_images
from .labels import read_labels
from .page.items import by_class
from .page.write import PageWriter
from .report import NO_IMAGES, AudioVisualFeatures, SoundFeatures, measure_models
from .store import Store, write_npz
from .table import table

Progress = Callable[[str], AbstractContextManager[OnStep | None]]


@dataclass(frozen=True)
class Folders:
    """What is measured, and with which files."""

    generated: Sequence[Path]
    reference: Path
    models: Sequence[Path]
    out: Path
    labels: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    seconds: float | None = None
    resamples: int = 200

    @property
    def systems(self) -> list[str]:
        """Names of the systems, which are those of their folders."""
        return [folder.resolve().name for folder in self.generated]


def evaluate_folders(asked: Folders, progress: Progress) -> dict[str, Any]:
    """Measure, and write `report.json`, `table.md`, `features.npz`, and `index.html` with its files.

    Raises:
        ValueError: a folder, file or model is not what is expected; this is found before anything is computed.
    """
    _check_names(asked)
    made, real = (
        {name for folder in asked.generated for name in find_sounds(folder)},
        find_sounds(asked.reference).keys(),
    )
    if asked.masks and not asked.images:
        raise ValueError("There is a folder of masks, but none of images, which masks belong to; give --images.")
    files = ItemImages.find(asked.images, asked.masks, made) if asked.images else None
    models = _open_models(asked.models)
    labels = [read_labels(asked.labels, one.classes) if asked.labels and one.classes else None for one in models[0]]
    if any(one and not one.own.keys() & (made | real) for one in labels):
        raise ValueError(
            f"{asked.labels} names no sound, such as {printable(min(made), 80)}; its column name has the files' names "
            "without the ending."
        )
    stores: dict[str, Store] = {}
    by_sounds = []
    for place, (model, own) in enumerate(zip(models[0], labels, strict=True)):
        folder = _folder(model.name)
        seconds, sides = _compute_all(asked, model, asked.out / "features" / folder, progress)
        by_sounds.append(SoundFeatures(model, seconds, sides[1:], sides[0], own))
        stores |= {f"{folder}/{side.name}" if place else side.name: side.store for side in sides}
    by_images = []
    for both in models[1] if files else ():
        assert files is not None
        folder = _folder(both.name)
        seconds, sides = _compute_all(asked, SoundSide(both), asked.out / "features" / folder, progress)
        common = {name for side in sides[1:] for name in pairs(side, sides[0])}
        with progress("images") as on_step:
            images = embed_images(files, common, both, asked.out / "features" / f"{folder} images", on_step)
        by_images.append(AudioVisualFeatures(both, seconds, sides[1:], sides[0], images))
        stores |= {f"{folder}/{side.name}": side.store for side in sides}
        stores[f"{folder} images"] = images.store
    no_images = {} if files else {both.metric: NO_IMAGES for both in models[1]}
    report = _settings(asked, by_sounds) | measure_models(
        by_sounds, by_images, resamples=asked.resamples, no_images=no_images
    )
    by_name = {one.model.name: one for one in by_sounds}
    judging, comparing = (by_name[report["figures_by"][what]] for what in ("classes", "embeddings"))
    known = judging.labels.own if judging.labels else None
    classes = [by_class(side, judging.reference, judging.model.classes, known) for side in judging.systems]
    for system, figures in zip(report["systems"], classes, strict=True):
        system["by_class"] = {name: asdict(found) for name, found in figures.items()}
    write_npz(asked.out / "features.npz", stores)
    write_atomic(asked.out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomic(asked.out / "table.md", table(report).encode())
    PageWriter(asked.out, judging, files).write(report, comparing, classes)
    return report


def _check_names(asked: Folders) -> None:
    if asked.out.exists() and not asked.out.is_dir():
        raise ValueError(f"{asked.out} is a file, but a folder for the report is expected.")
    called = asked.systems
    if len({"reference", *(name.casefold() for name in called)}) <= len(called):
        raise ValueError(
            f"The generated folders are called {', '.join(called)}, but different names are expected, "
            "none of them 'reference'; rename a folder."
        )


def _open_models(paths: Sequence[Path]) -> tuple[list[FeatureModel], list[AudioVisualModel]]:
    sounds: list[FeatureModel] = []
    both: list[AudioVisualModel] = []
    for path in paths:
        model = open_model(path)
        if model.name in [*(one.name for one in sounds), *(one.name for one in both)]:
            raise ValueError(f"{path} is given twice; give each model once.")
        if isinstance(model, AudioVisualModel):
            both.append(model)
        else:
            sounds.append(model)
    if not sounds:
        raise ValueError(
            "There are models of sounds and images alone; give a model of sounds, too, for what they are compared by."
        )
    return sounds, both


def _folder(name: str) -> str:
    """A model's name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]


def _compute_all(asked: Folders, model: FeatureModel, out: Path, progress: Progress) -> tuple[float, list[Side]]:
    """The reference and all systems by one model, and the length that they were brought to."""
    seconds = asked.seconds or model.seconds
    sides = []
    for name, folder in zip(["reference", *asked.systems], [asked.reference, *asked.generated], strict=True):
        with progress(name) as on_step:
            sides.append(compute_features(name, folder, model, seconds, out / name, on_step))
    return seconds, sides


def _settings(asked: Folders, by_sounds: Sequence[SoundFeatures]) -> dict[str, Any]:
    first = by_sounds[0]
    return {
        "model": first.model.name,
        "seconds": first.seconds,
        "resamples": asked.resamples,
        "unknown_labels": first.labels.unknown if first.labels else [],
        "images": str(asked.images) if asked.images else None,
        "masks": str(asked.masks) if asked.masks else None,
    }
