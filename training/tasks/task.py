"""What a recipe's `task` stands for: the settings of one kind of training, and what is built from them.

Each subclass of `Task` stands beside the objective that it builds; `training.registry` lists them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

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


class Task(ABC, Generic[S]):
    """One kind of training.

    Attributes:
        name: what a recipe calls it, both as `task` and as the key of its settings.
        settings: their dataclass.
        locations: settings that only say where files lie, not what they are.
    """

    name: ClassVar[str]
    settings: type[S]
    locations: ClassVar[tuple[str, ...]] = ()

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

    def finish(self, model: SoundingModel, built: Built) -> None:
        """Called before an export: measure what belongs in the model's configuration."""
