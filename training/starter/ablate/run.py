"""All ablations in order: shared material, the common start, then of every seed each training and its cells.

Everything is kept in the folder of the run: what is there is not made again, and a training that was stopped goes on
where it was. Seeds are the outermost loop, so that a run that is stopped early has all rows with fewer seeds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sounding.model import SoundingModel
from sounding.utils.files import write_atomic

from ...data.features import FeatureSource
from ...data.object_set import ObjectSet, read_manifest
from ...data.scene_source import SceneSource
from ...data.shard_format import INDEX
from ...data.shard_writer import make_shards
from ...evaluate.features import FeatureModel, open_features
from ...evaluate.folders import Side, compute_features
from ...evaluate.models.classifier import write_classifier
from ...initialization import initialize
from ...provenance import weights_fingerprint
from ...recipe import RECIPES, Recipe, read_recipe
from ...run import run as train
from ..evaluate.classifier import train_classifier
from ..evaluate.items import ItemsSettings, write_items
from .figures import attention_figures, make_sounds, measure_sounds
from .material import Labels, Material, choose_objects, open_material, read_item_labels
from .rows import ALL_TRAININGS, COLLECTED, OURS, PERFECT, Cell, Row, build_rows
from .settings import AblationSettings
from .sound_query import make_sound_queries
from .thresholds import Collection
from .work import Work

log = logging.getLogger("training")
FOLDER = RECIPES / "ablations" / "starter"
START, AUDIO = "start", "audio_query"
CAPTIONS = 2  # per scene


@dataclass
class Ablations:
    """A run of ablations in a folder.

    Attributes:
        data: folder of stamps.
        judge: file of a model that has the stamps' names as classes; None trains one on the chosen objects.
        out: folder of the run.
        settings: its scale.
        rows: what is compared.
        recipes: folder of the trainings' recipes.
        steps: of every training but the common start; None is the recipes' own.
        matching: file of a matching network, for the rows of its thresholds; without it they are left out.
        failed: what could not be made, and why.
        read: recipes that were read.
    """

    data: Path
    judge: Path | None
    out: Path
    settings: AblationSettings
    rows: tuple[Row, ...]
    recipes: Path = FOLDER
    steps: int | None = None
    matching: Path | None = None
    failed: dict[str, str] = field(default_factory=dict)
    read: dict[tuple[str, int | None], Recipe] = field(default_factory=dict, repr=False)

    @property
    def cells(self) -> list[Cell]:
        """Each once, in the order of the trainings."""
        cells = dict.fromkeys(row.cell for row in self.rows)
        known = [cell for cell in cells if self.matching or cell.training not in COLLECTED]
        return sorted(known, key=lambda cell: ALL_TRAININGS.index(cell.training))

    @property
    def collection(self) -> Collection | None:
        """What the trainings of thresholds learn from, if any of them is asked for."""
        if self.matching is None or not any(cell.training in COLLECTED for cell in self.cells):
            return None
        return Collection(self.out / "collection", self.matching, self.settings.clips)

    def recipe(self, name: str, seed: int | None = None) -> Recipe:
        """The recipe of the common start, or of a training with a seed.

        Raises:
            ValueError: see `read_recipe`.
        """
        if (name, seed) in self.read:
            return self.read[name, seed]
        features = self.out / ("sound_query_features" if name == AUDIO else "features")
        if name in COLLECTED:
            features = self.out / "collection" / name
        changes = [f"out={self.out / 'trained'}", f"data.shards={features}"]
        if seed is not None:
            start = self.recipe(START).result
            changes += [f"name={name}-{seed}", f"loop.seed={seed}", f"start.all={start}"]
            changes += [f"loop.steps={self.steps}"] if self.steps else []
        file = OURS if name in COLLECTED else name
        self.read[name, seed] = read_recipe(self.recipes / f"{file}.yaml", overrides=changes)
        return self.read[name, seed]

    def work(self) -> list[Work]:
        """Everything that the rows need, in the order in which it is made."""
        settings, start = self.settings, self.recipe(START)
        needs_audio = any(cell.training == AUDIO for cell in self.cells)
        found = [
            Work("scenes", "scenes and their features", settings.scenes, (self.out / "features" / INDEX).is_file()),
            Work("judge", "judge", settings.judge.loop.steps, self.judge is not None or self._own_judge.is_file()),
            Work("steps", "common start", start.loop.steps, start.result.is_file()),
        ]
        if needs_audio:
            done = (self.out / "sound_query_features" / INDEX).is_file()
            found.append(Work("sound query", "queries by sound", settings.sound_query.steps, done))
        if self.collection:
            found.append(Work("clips", "clips and their scores", settings.clips, self.collection.is_made()))
        items = settings.objects * settings.per_object + settings.pairs
        for seed in settings.seeds:
            for name in ALL_TRAININGS:
                cells = [cell for cell in self.cells if cell.training == name]
                if cells:
                    recipe = self.recipe(name, seed)
                    found.append(Work("steps", f"training {name}", recipe.loop.steps, recipe.result.is_file(), seed))
                found += [Work("sounds", c.name, items, self._is_measured(c, seed), seed) for c in cells]
        return found

    def check(self) -> None:
        """Look at what a run needs before its first step.

        Raises:
            ValueError, OSError: data, judge or a recipe that cannot be used.
        """
        objects = choose_objects(self.data, self.out / "objects", self.settings.objects)
        unknown = sorted(
            {entry.name for entry in read_manifest(objects)} - set(self.hearing.classes if self.judge else ())
        )
        if self.judge and unknown:
            raise ValueError(
                f"{self.judge} does not know {unknown[0]!r} of {self.data}; write a judge of the same stamps with "
                "`python -m training starter evaluate judge`."
            )
        self.work()

    def run(self) -> Iterator[Work]:
        """Make all that is missing, and yield each thing when it is there.

        A cell or training that fails is noted in `failed` and left out, and the others are made.
        """
        self.check()
        self._make_features()
        yield from self._notes("scenes and their features")
        log.info("The judge is %s", self.hearing.name)
        yield from self._notes("judge")
        train(self.recipe(START))
        yield from self._notes("common start")
        if any(cell.training == AUDIO for cell in self.cells):
            scenes, features = self.out / "scenes", self.out / "features"
            folder, out = self.out / "trained" / "sound_query", self.out / "sound_query_features"
            if not (out / INDEX).is_file():
                make_sound_queries(scenes, features, self.settings.sound_query, folder, out)
            yield from self._notes("queries by sound")
        if self.collection:
            if not self.collection.is_made():
                self.collection.make(self.out / "objects", initialize(self.recipe(START)))
            yield from self._notes("clips and their scores")
        for seed in self.settings.seeds:
            for name in ALL_TRAININGS:
                cells = [cell for cell in self.cells if cell.training == name]
                if cells:
                    yield from self._train_and_measure(name, seed, cells)

    def results(self) -> dict[str, dict[int, dict[str, Any]]]:
        """What is measured so far, of rows that are not chosen, too: name of a cell -> seed -> content of its file."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for cell in dict.fromkeys(row.cell for row in build_rows()):
            for seed in self.settings.seeds:
                file = self._file(cell, seed)
                if file.is_file():
                    found.setdefault(cell.name, {})[seed] = json.loads(file.read_text(encoding="utf-8"))
        return found

    @cached_property
    def hearing(self) -> FeatureModel:
        """The judge."""
        if self.judge is not None:
            return open_features(self.judge)
        file = self._own_judge
        if not file.is_file():
            objects = ObjectSet(self.out / "objects")
            judge = train_classifier(self.settings.judge, objects, self.out / "judge")
            write_classifier(file, judge, [entry.name for entry in objects.entries])
        return open_features(file)

    @cached_property
    def items(self) -> Path:
        """The folder of items to evaluate on."""
        settings, seconds = self.settings, self.recipe(START).model.train_seconds
        items = ItemsSettings(
            stream=settings.item_stream,
            per_object=settings.per_object,
            pairs=settings.pairs,
            backgrounds=0,
            seconds=seconds,
        )
        return write_items(self.out / "objects", self.out / "items", items)

    @cached_property
    def labels(self) -> Labels:
        """Of the items."""
        return read_item_labels(self.items)

    @cached_property
    def material(self) -> Material:
        """The items as all models see them."""
        parts = ("patches", "query")
        model = SoundingModel.from_pretrained(self.recipe(START).result, parts=parts)
        kinds = {PERFECT} | {cell.masks for cell in self.cells}
        return open_material(self.items, self.out / "objects", model, self.out / "material.safetensors", kinds)

    @cached_property
    def reference(self) -> Side:
        """The real sounds."""
        seconds = self.recipe(START).model.train_seconds
        return compute_features(
            "reference", self.items / "reference", self.hearing, seconds, self.out / "heard" / "reference"
        )

    @cached_property
    def reference_figures(self) -> dict[str, float]:
        """Figures of the real sounds themselves: what could be reached at most."""
        seconds, folder = self.recipe(START).model.train_seconds, self.items / "reference"
        found = measure_sounds(
            folder, self.reference, self.hearing, self.labels, seconds, self.out / "heard" / "reference"
        )
        return {name: value for name, value in found["figures"].items() if name not in ("fad", "kl", "kad")}

    @property
    def described(self) -> dict[str, Any]:
        """The settings of the run as its report has them."""
        labels, start, ours = self.labels, self.recipe(START), self.recipe(OURS, self.settings.seeds[0])
        return {
            **asdict(self.settings),
            "judge": self.hearing.name,
            "items": len(labels),
            "control_items": sum(bool(others) for _, others in labels.values()),
            "seconds": start.model.train_seconds,
            "start_steps": start.loop.steps,
            "steps": ours.loop.steps,
            "batch": ours.loop.batch,
            "kept": self.collection.kept() if self.collection else {},
        }

    def _make_features(self) -> None:
        """Scenes and their features."""
        recipe, out = self.recipe(START), self.out
        if not (out / "features" / INDEX).is_file():
            seconds, size = recipe.model.train_seconds, recipe.model.patches.image_size
            objects, count = out / "objects", self.settings.scenes
            scenes = SceneSource(objects, scenes=count, split="train", seconds=seconds, size=size, captions=CAPTIONS)
            make_shards(scenes, out / "scenes", workers=0)
            make_shards(FeatureSource(out / "scenes", initialize(recipe)), out / "features")

    def _train_and_measure(self, name: str, seed: int, cells: list[Cell]) -> Iterator[Work]:
        recipe = self.recipe(name, seed)
        try:
            if not recipe.result.is_file():
                began = time.monotonic()
                train(recipe)
                log.info("%s is trained in %.0f s", recipe.name, time.monotonic() - began)
        except (FloatingPointError, ValueError) as error:
            self.failed |= {f"{cell.name}, seed {seed}": str(error) for cell in cells}
            log.warning("%s is left out: %s", recipe.name, error)
            return
        yield from self._notes(f"training {name}", seed=seed)
        model: SoundingModel | None = None
        for cell in cells:
            if self._is_measured(cell, seed):
                continue
            if model is None:
                parts = ("grounding", "unet", "vae", "vocoder")
                model = SoundingModel.from_pretrained(recipe.result, parts=parts)
            try:
                self._measure(model, cell, seed)
            except ValueError as error:
                self.failed[f"{cell.name}, seed {seed}"] = str(error)
                log.warning("%s, seed %d is left out: %s", cell.name, seed, error)
                continue
            yield from self._notes(cell.name, seed=seed)

    def _is_measured(self, cell: Cell, seed: int) -> bool:
        """Whether a cell's figures are there and are those of today's training, items and judge."""
        file, needed = self._file(cell, seed), (self.recipe(cell.training, seed).result, self.out / "items")
        if not file.is_file() or not all(path.exists() for path in (*needed, self.judge or self._own_judge)):
            return False
        return bool(json.loads(file.read_text(encoding="utf-8"))["made_of"] == self._made_of(cell, seed))

    def _measure(self, model: SoundingModel, cell: Cell, seed: int) -> None:
        name, began, made_of = f"{cell.name}-{seed}", time.monotonic(), self._made_of(cell, seed)
        # A name of its own for every content, so that no sound of another model is taken for one of this.
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
        sounds = self.out / "sounds" / f"{name}-{digest}"
        make_sounds(model, self.material, cell, seed, self.settings, sounds)
        found = measure_sounds(
            sounds, self.reference, self.hearing, self.labels, model.config.train_seconds, self.out / "heard" / name
        )
        found |= {
            "cell": asdict(cell),
            "seed": seed,
            "made_of": made_of,
            "attention": attention_figures(model, self.material),
        }
        write_atomic(self._file(cell, seed), json.dumps(found, indent=1).encode())
        log.info("%s is measured in %.0f s: %s", name, time.monotonic() - began, found["figures"])

    def _made_of(self, cell: Cell, seed: int) -> dict[str, Any]:
        """All that a cell's figures depend on."""
        weights = weights_fingerprint([str(self.recipe(cell.training, seed).result)])
        sampling = {"steps": self.settings.sampling_steps}
        items = hashlib.sha256((self.items / "items.json").read_bytes()).hexdigest()
        return {
            "cell": asdict(cell),
            "seed": seed,
            "weights": weights,
            "items": items,
            "judge": self.hearing.name,
        } | sampling

    @property
    def _own_judge(self) -> Path:
        return self.out / "judge.safetensors"

    def _file(self, cell: Cell, seed: int) -> Path:
        return self.out / "cells" / f"{cell.name}-{seed}.json"

    def _notes(self, *names: str, seed: int | None = None) -> Iterator[Work]:
        yield from (work for work in self.work() if work.name in names and work.seed == seed)
