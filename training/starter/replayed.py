"""Features of scenes in which some objects look as ImageNet's classes do, instead of as their images.

Scenes show one or a few images of an object, photographs show any. So a scene in which one object sounds has further
frames, in which that object's patches are drawn of one of its classes (`imagenet.PatchFeatures`); an object that there
is no image of has such frames alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sounding.model import SoundingModel

from ..data.features import FeatureSource
from ..data.object_set import ObjectEntry
from ..data.shard_folders import Folders
from ..data.shards import Shards
from .imagenet import PatchFeatures, class_vectors

OBSERVED = 256  # scenes from which the statistics of patches are taken


def spread_over(count: int, most: int) -> range:
    """At most so many places out of `count`, evenly spaced."""
    return range(0, count, -(-count // most))


class ReplayedFeatures(FeatureSource):
    """`FeatureSource` of scenes of `objects`, numbered by their labels.

    Args:
        raw, model: see `FeatureSource`; the model's tower is that of `imagenet.load_imagenet`.
        objects: of the set that the scenes were made of, all that can be seen.
        frames: further ones per scene of one sounding object that ImageNet has a class for.

    Raises:
        ValueError: see `FeatureSource`.
    """

    def __init__(self, raw: Folders, model: SoundingModel, objects: Sequence[ObjectEntry], frames: int):
        super().__init__(raw, model)
        self.objects, self.frames = objects, frames
        self.vectors = class_vectors(model.patches.tower.head.proj.weight.detach().float())
        pictures = Shards(raw, ("images",))
        places = spread_over(len(pictures), OBSERVED)
        with torch.inference_mode():
            seen = [model.patches(pictures[place]["images"][:1] / 255.0)[0] for place in places]
        self.like = PatchFeatures.of(seen)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        classes = [list(entry.classes) for entry in self.objects]
        return {**super().settings(), "replayed": self.frames, "classes": classes}

    def _encode(self, batch: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        made = super()._encode(batch)
        for sample, features in made:
            sounding = [sample["labels"][place] for place in sample["sounding"]]
            entry = self.objects[sounding[0]]
            if len(sounding) > 1 or not entry.classes:
                continue
            own = features["patches"] if entry.image else features["patches"][:0]
            drawn = self._drawn(features["patches"][0].float(), features["coverage"].float(), entry, sample["id"])
            features["patches"] = torch.cat([own, drawn.half()])
        return made

    def _drawn(self, patches: Tensor, coverage: Tensor, entry: ObjectEntry, name: str) -> Tensor:
        """Patches [frames, P, L] whose covered part looks as one of the object's classes does."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        chosen = torch.randint(len(entry.classes), (self.frames,), generator=generator)
        vectors = self.vectors[torch.tensor(entry.classes)[chosen]]
        cells = self.like.draw(vectors, len(coverage), generator)
        return patches.lerp(cells, coverage[:, None])
