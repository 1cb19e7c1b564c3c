"""The scale of the ablations: objects, scenes, items, sampling, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from sounding.utils.fields import Checked, Range

from ...engine.settings import LoopConfig, Seed
from ..evaluate.classifier import ClassifierRecipe


@dataclass(frozen=True)
class AblationSettings(Checked):
    """The file `plan.yaml` beside the recipes.

    Attributes:
        objects: of the list of stamps, evenly spaced in it.
        scenes: that all trainings draw from.
        clips: of the collection that thresholds of audio-visual matching are tried on.
        per_object, pairs: items to evaluate on, see `ItemsSettings`.
        sampling_steps: of every sound.
        seeds: of the trainings; every row is repeated with each.
        item_stream: random stream of the items; the default is that of development figures.
        sound_query: how the audio encoder of the audio-image attention is trained.
        judge: how the classifier of the chosen objects is trained, which hears the sounds.
    """

    sound_query: LoopConfig
    judge: ClassifierRecipe
    objects: Annotated[int, Range(2, 10_000)] = 16
    scenes: Annotated[int, Range(1, 10_000_000)] = 800
    clips: Annotated[int, Range(8, 10_000_000)] = 600
    per_object: Annotated[int, Range(0, 100)] = 2
    pairs: Annotated[int, Range(0, 100_000)] = 16
    sampling_steps: Annotated[int, Range(1, 1000)] = 12
    seeds: tuple[Seed, ...] = field(default=(1, 2, 3))
    item_stream: Annotated[int, Range(0, 2**31)] = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.per_object + self.pairs:
            raise ValueError("per_object and pairs are both 0, but items are needed; give one of them more.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}, but one or more different ones are expected.")
