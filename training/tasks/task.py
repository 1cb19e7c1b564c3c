"""What a recipe's `task` stands for: the settings of one kind of training, and what is built from them.

Each subclass of `Task` or `NetworkTask` stands beside the objective that it builds; `training.registry` lists them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch

from sounding.model import SoundingModel

from ..data.settings import DataSettings
from ..engine.loader import Items
from ..engine.objective import Critic, Objective

S = TypeVar("S")


@dataclass(frozen=True)
class Built:
    """What the loop trains: an objective on items and, where the task is adversarial, its critic."""

    objective: Objective
    items: Items
    critic: Critic | None = None


@dataclass(frozen=True)
class Context:
    """What an objective is told about its run.

    Attributes:
        captions: of all objects in the data, for tasks that compare them; see `Task.captions`.
        fresh: the model's parts that start from random weights.
    """

    captions: Sequence[str] = ()
    fresh: frozenset[str] = frozenset()


class AnyTask(ABC, Generic[S]):
    """One kind of training; either a `Task` or a `NetworkTask`.

    Attributes:
        name: what a recipe calls it, both as `task` and as the key of its settings.
        settings: their dataclass.
        locations: settings that only say where files lie, not what they are.
        learns_unet: whether the U-Net changes, so that a few-step student of what it was is of no use.
    """

    name: ClassVar[str]
    settings: type[S]
    locations: ClassVar[tuple[str, ...]] = ()
    learns_unet: ClassVar[bool] = False

    def critic(self, settings: S) -> Critic | None:
        """What the objective is trained against, where the settings ask for it."""
        return None

    def captions(self, data: DataSettings) -> Sequence[str]:
        """Of the objects in `data`, as far as they can be known without reading all of it; for estimates."""
        return ()

    def folders(self, settings: S) -> tuple[str, ...]:
        """Data sets that the settings name, besides those of `DataSettings`."""
        return ()

    def epoch(self, settings: S, items: Items) -> int:
        """Items of one epoch."""
        return len(items)

    def quick(self, settings: S) -> S:
        """Settings with which `build` does everything that it does, but nothing that takes minutes: for a dry run."""
        return settings

    def learns_grounding(self, settings: S) -> bool:
        """Whether training measures the statistics of attention and conditions that masks are brought to."""
        return False


class Task(AnyTask[S]):
    """Training of parts of a model that makes sounds."""

    @abstractmethod
    def objective(self, model: SoundingModel, settings: S, context: Context) -> Objective:
        """The objective, which trains parts of `model` in place."""

    @abstractmethod
    def items(self, model: SoundingModel, settings: S, data: DataSettings) -> Items:
        """The training set.

        Raises:
            ValueError: data that the task cannot use.
            FileNotFoundError: data that is not there.
        """

    def build(self, model: SoundingModel, settings: S, data: DataSettings, fresh: frozenset[str]) -> Built:
        """Objective, items and critic together; raises what `items` raises. `fresh`: see `Context`."""
        items, critic = self.items(model, settings, data), self.critic(settings)
        return Built(self.objective(model, settings, Context(fresh=fresh)), items, critic)

    def finish(self, model: SoundingModel, built: Built) -> None:
        """Called before an export: measure what belongs in the model's configuration."""


class NetworkTask(AnyTask[S]):
    """Training of a network that is no part of a model that makes sounds: its recipe has neither `model` nor `start`
    nor `preview`, and its result is a file of the network's own kind.
    """

    @abstractmethod
    def objective(self, settings: S, items: Items | None) -> Objective:
        """The objective with a network of random weights, whose sizes fit `items`; without them, for estimates, those
        of the settings alone.
        """

    @abstractmethod
    def items(self, settings: S, data: DataSettings) -> Items:
        """The training set; raises what `Task.items` raises."""

    def build(self, settings: S, data: DataSettings) -> Built:
        """Objective, items and critic together; raises what `items` raises."""
        items = self.items(settings, data)
        return Built(self.objective(settings, items), items, self.critic(settings))

    @abstractmethod
    def write(self, objective: Objective, file: Path, record: Mapping[str, str], *, dtype: torch.dtype) -> None:
        """Write the network that was trained in one step, with `record` in the header of its file."""
