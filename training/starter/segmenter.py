"""The click decoder on scenes of all that is cut out in a set of objects."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sounding.model import SoundingModel
from sounding.utils.fields import Range

from ..data.object_set import ObjectSet
from ..data.settings import DataSettings
from ..data.tensor_cache import TensorCache
from ..engine.loader import Item
from ..engine.settings import FilePath
from ..tasks.segmenter import (
    SegmenterObjective,
    SegmenterSettings,
    backbone_tensors,
    build_network,
    first_prompt,
    normal,
)
from ..tasks.task import Context, Task
from .click_scenes import ClickScene, click_scene
from .cutouts import Cutouts, cutouts_of
from .encoders import folder_of


@dataclass(frozen=True)
class StarterSegmenterSettings(SegmenterSettings):
    """Settings of the segmenter, and where its scenes come from.

    Attributes:
        cache: a folder that keeps scenes with the frozen tower's maps of them; "" makes them anew each time.
        scenes: how many.
    """

    cache: FilePath = ""
    scenes: Annotated[int, Range(1, 10_000_000)] = 4000


class SegmenterItems:
    """Scenes with one object to find in each, and the first prompt for it."""

    def __init__(self, data: Cutouts, model: SoundingModel, settings: StarterSegmenterSettings):
        self.data, self.settings = data, settings
        # A copy: the trainer moves its own to the device, while scenes are drawn on the CPU.
        self.network, self.patches = build_network(model), copy.deepcopy(model.patches)
        self.side = self.network.config.side
        self.cache: TensorCache | None = None
        if settings.cache:
            drawn = f"image {self.side} {len(data)} {len(data.photographs)} {model.config.patches}"
            images = (np.asarray(image) for image in (*data.cutouts, *data.photographs))
            self.cache = TensorCache(Path(settings.cache), drawn, backbone_tensors(self.patches.state_dict()), images)

    def __len__(self) -> int:
        return self.settings.scenes

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """image [3, S, S] and mask [S, S] uint8 of one object, and the prompt of `first_prompt`; with a cache also
        the tower's maps, fp16.
        """
        tensors = self._scene(index)
        masks = tensors.pop("masks")
        mask = masks[int(rng.integers(len(masks)))]
        return {"id": f"scene {index}", **tensors, "mask": mask, **first_prompt(mask, self.settings.boxes, rng)}

    def _scene(self, index: int) -> dict[str, Tensor]:
        if self.cache is None:
            return _tensors(click_scene(self.data, index, self.side))
        return self.cache.get(index, lambda: self._seen(index))

    @torch.no_grad()
    def _seen(self, index: int) -> dict[str, Tensor]:
        tensors = _tensors(click_scene(self.data, index, self.side))
        maps = self.network.levels(self.patches.tower, normal(tensors["image"][None], self.patches))
        return tensors | {f"map{i}": level[0].half().contiguous() for i, level in enumerate(maps)}


def _tensors(scene: ClickScene) -> dict[str, Tensor]:
    picture = torch.from_numpy(scene.picture.copy()).movedim(-1, 0).contiguous()
    return {"image": picture, "masks": torch.from_numpy(scene.masks)}


class SegmenterTask(Task[StarterSegmenterSettings]):
    """The click decoder, on scenes of all that is cut out in a set of objects."""

    name = "starter_segmenter"
    settings = StarterSegmenterSettings
    locations = ("cache",)

    def objective(
        self, model: SoundingModel, settings: StarterSegmenterSettings, context: Context
    ) -> SegmenterObjective:
        """See `Task`."""
        return SegmenterObjective(model, settings)

    def items(self, model: SoundingModel, settings: StarterSegmenterSettings, data: DataSettings) -> SegmenterItems:
        """See `Task`."""
        return SegmenterItems(cutouts_of(ObjectSet(folder_of(data))), model, settings)
