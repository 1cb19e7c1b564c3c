"""Tasks that draw scenes of the starter's stamps: encoders and class-feature replay."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from sounding.model import SoundingModel

from ..data.object_set import MANIFEST, ObjectSet, read_manifest
from ..data.settings import DataSettings
from ..engine.loader import Items
from ..tasks.task import Built, Context, Task
from .encoders import SceneItems, StarterEncodersObjective, StarterEncodersSettings
from .replay import ReplayObjective, ReplaySettings
from .replay_scenes import ReplayItems

S = TypeVar("S")


class StampsTask(Task[S]):
    """Scenes of stamps, whose captions are compared and become the model's vocabulary."""

    @abstractmethod
    def scenes(self, stamps: ObjectSet, model: SoundingModel, settings: S) -> Items:
        """Items drawn from `stamps`."""

    def items(self, model: SoundingModel, settings: S, data: DataSettings) -> Items:
        """See `Task`."""
        return self.scenes(self._stamps(data), model, settings)

    def build(self, model: SoundingModel, settings: S, data: DataSettings, fresh: frozenset[str]) -> Built:
        """See `Task`. The captions become `model.config.vocabulary`."""
        stamps = self._stamps(data)
        captions = [stamp.caption for stamp in stamps.entries]
        model.config = dataclasses.replace(model.config, vocabulary=tuple(dict.fromkeys(captions)))
        items = self.scenes(stamps, model, settings)
        return Built(self.objective(model, settings, Context(captions, fresh)), items)

    def captions(self, data: DataSettings) -> Sequence[str]:
        """See `Task`; one made-up caption where the stamps are not there yet."""
        if data.stamps and (Path(data.stamps) / MANIFEST).is_file():
            return [entry.caption for entry in read_manifest(Path(data.stamps))]
        return ["an object"]

    def _stamps(self, data: DataSettings) -> ObjectSet:
        if not data.stamps:
            raise ValueError(f"The {self.name} trainer draws scenes of stamps; give data.stamps.")
        return ObjectSet(Path(data.stamps))


class EncodersTask(StampsTask[StarterEncodersSettings]):
    """Patch and query encoders, trained contrastively."""

    name = "starter_encoders"
    settings = StarterEncodersSettings

    def objective(
        self, model: SoundingModel, settings: StarterEncodersSettings, context: Context
    ) -> StarterEncodersObjective:
        """See `Task`."""
        return StarterEncodersObjective(model, settings, list(context.captions))

    def scenes(self, stamps: ObjectSet, model: SoundingModel, settings: StarterEncodersSettings) -> SceneItems:
        """See `StampsTask`."""
        return SceneItems(stamps, model, backdrops=settings.retains)


class ReplayTask(StampsTask[ReplaySettings]):
    """The last layers before a mask's condition, on scenes and replayed class features."""

    name = "class_feature_replay"
    settings = ReplaySettings
    locations = ("cache",)

    def objective(self, model: SoundingModel, settings: ReplaySettings, context: Context) -> ReplayObjective:
        """See `Task`."""
        return ReplayObjective(model, settings, list(context.captions))

    def scenes(self, stamps: ObjectSet, model: SoundingModel, settings: ReplaySettings) -> ReplayItems:
        """See `StampsTask`."""
        return ReplayItems(stamps, model, settings)

    def epoch(self, settings: ReplaySettings, items: Items) -> int:
        """See `Task`."""
        return settings.scenes

    def quick(self, settings: ReplaySettings) -> ReplaySettings:
        """See `Task`."""
        return dataclasses.replace(settings, scenes=2, inverted=2, cache="")
