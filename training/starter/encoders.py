"""The starter's encoders: the patch tower as it was published, and a text tower that learns from scenes what to call
what it sees, and from features of ImageNet's classes what scenes do not show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sounding.encoders.audio import ClapAudioQuery
from sounding.encoders.patches import mask_to_grid
from sounding.model import SoundingModel

from ..data.object_set import MANIFEST, ObjectEntry, ObjectSet, read_set
from ..data.scenes import TEMPLATES, as_tensors, draw_scene, scene_caption, scene_rng, scene_sound
from ..data.settings import DataSettings
from ..engine.loader import Item, Items
from ..engine.settings import Weight
from ..tasks.encoders import MOST_OBJECTS, EncodersObjective, EncodersSettings, Seen
from ..tasks.task import Built, Context, Task
from .imagenet import PatchFeatures, class_vectors, load_imagenet

REPLAYED = 64  # features of classes per step
MOMENTUM = 0.98  # of the statistics of patches


@dataclass(frozen=True)
class StarterEncodersSettings(EncodersSettings):
    """Settings of the contrastive objective, and of what the text tower learns besides.

    Attributes:
        imagenet: the patch tower has its published ImageNet weights and a projection made of them, and stays as it is.
        replay_weight: of the cross-entropy of drawn features of ImageNet's classes against all captions, for
            encoders with `imagenet`.
    """

    imagenet: bool = False
    replay_weight: Weight = 0.0


class SceneItems:
    """Scenes of a set of objects, each drawn anew: the set has no end, `count` only names an epoch."""

    def __init__(self, objects: ObjectSet, model: SoundingModel, count: int = 100_000):
        self.objects, self.config, self.count = objects, model.config, count
        self.heard = isinstance(model.query, ClapAudioQuery)

    def __len__(self) -> int:
        return self.count

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """image [H, W, 3], grids [4, P] and labels [4] of up to four objects (label -1: none), sounding [4], caption, a
        sentence form for the objects' own names, and a number 0..1 that chooses among those; waveform [samples] where
        queries are sounds.
        """
        patches = self.config.patches
        size = (patches.image_size, patches.image_size)
        drawn, scene = draw_scene(self.objects, scene_rng("train", index), size=size)
        image, masks = as_tensors(scene)
        grids = torch.zeros(MOST_OBJECTS, patches.grid**2)
        grids[: len(masks)] = mask_to_grid(masks, size, patches)
        labels = torch.full((MOST_OBJECTS,), -1)
        labels[: len(masks)] = torch.tensor(scene.labels)
        sounding = torch.zeros(MOST_OBJECTS, dtype=torch.bool)
        sounding[list(scene.sounding)] = True
        sound = {"waveform": scene_sound(drawn, scene, self.config.train_samples, rng)} if self.heard else {}
        return {
            "id": f"scene {index}",
            "image": image[0],
            "grids": grids,
            "labels": labels,
            "sounding": sounding,
            "caption": scene_caption(drawn, scene, rng),
            "form": str(rng.choice(TEMPLATES)),
            "name": float(rng.random()),
            **sound,
        }


class StarterEncodersObjective(EncodersObjective):
    """`EncodersObjective` with a frozen patch tower from ImageNet; `objects` are all that captions name, by label.

    Raises:
        ValueError: classes are to be replayed, but the tower is not ImageNet's, or no object has a class.
    """

    vectors: Tensor  # [1000, L] of ImageNet's classes
    right: Tensor  # [objects, classes], 1 for an object's classes
    mean: Tensor  # [L] of patches, running
    covariance: Tensor  # [L, L]
    observed: Tensor  # steps

    def __init__(self, model: SoundingModel, settings: StarterEncodersSettings, objects: Sequence[ObjectEntry]):
        super().__init__(model, settings, [entry.caption for entry in objects])
        self.names = [entry.all_captions for entry in objects]
        self.weights["replay"] = settings.replay_weight
        if settings.imagenet:
            load_imagenet(self.patches)
            self.patches.requires_grad_(False)
        if not settings.replay_weight:
            return
        replayed = [(label, number) for label, entry in enumerate(objects) for number in entry.classes]
        if not settings.imagenet or not replayed or isinstance(self.query, ClapAudioQuery):
            raise ValueError(
                "starter_encoders.replay_weight asks for features of ImageNet's classes, but these need imagenet: "
                "true, a query by text, and objects that ImageNet has a class for; set replay_weight to 0."
            )
        width = model.config.patches.width
        right = torch.zeros(len(objects), max(number for _, number in replayed) + 1)
        right[tuple(zip(*replayed, strict=True))] = 1
        vectors = class_vectors(self.patches.tower.head.proj.weight)
        for name, value in (("vectors", vectors), ("right", right)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.zeros(width, width))
        self.register_buffer("observed", torch.tensor(0))

    def example(self, device: torch.device) -> dict[str, Any]:
        """See `Objective`."""
        return {**super().example(device), "name": torch.zeros(1, device=device)}

    def captions_of(self, batch: dict[str, Any]) -> Tensor:
        """See `EncodersObjective`: each object by one of its names."""
        assert not isinstance(self.query, ClapAudioQuery)
        forms, numbers = batch["form"], batch["name"].tolist()
        sentences = []
        for label, names in enumerate(self.names):
            turn = label % len(forms)
            sentences.append(forms[turn].format(names[min(int(numbers[turn] * len(names)), len(names) - 1)]))
        return self.query.encode(sentences).float()

    def more_losses(self, batch: dict[str, Any], features: Tensor, seen: Seen) -> dict[str, Tensor]:
        """See `EncodersObjective`: the cross-entropy of replayed classes, and the share that is called what it is."""
        if not self.weights["replay"]:
            return {}
        with torch.autocast(features.device.type, enabled=False):  # a covariance wants all its digits
            self._observe(features.detach().float())
            made, right = self._replayed(batch["name"])
        similar = functional.normalize(made, dim=-1) @ functional.normalize(seen.captions, dim=-1).T
        shares = right / right.sum(dim=-1, keepdim=True)  # objects that share the class are all right
        replay = functional.cross_entropy(similar / self.temperature, shares)
        hits = right.gather(1, similar.argmax(dim=-1, keepdim=True))
        return {"replay": replay, "replay_top1": hits.mean().detach()}

    @torch.no_grad()
    def _observe(self, patches: Tensor) -> None:
        """Running mean and covariance of single patches [B, P, L]."""
        rows = patches.flatten(0, 1)
        keep = MOMENTUM if self.observed else 0.0
        self.mean.lerp_(rows.mean(dim=0), 1 - keep)
        self.covariance.lerp_(rows.T.cov(correction=0), 1 - keep)
        self.observed.add_(1)

    @torch.no_grad()
    def _replayed(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [N, L] of objects of ImageNet's classes, and which objects [N, objects] each is."""
        device = numbers.device
        generator = torch.Generator(device).manual_seed(int(numbers[0].double() * 2**52))
        known = self.right.any(dim=1).nonzero()[:, 0]
        chosen = known[torch.randint(len(known), (REPLAYED,), generator=generator, device=device)]
        drawn = torch.multinomial(self.right[chosen], 1, generator=generator)[:, 0]
        made = PatchFeatures(self.mean, self.covariance).draw(self.vectors[drawn], 1, generator)[:, 0]
        return made, self.right[:, drawn].T


class EncodersTask(Task[StarterEncodersSettings]):
    """Scenes of a set of objects, whose captions are compared and become the model's vocabulary."""

    name = "starter_encoders"
    settings = StarterEncodersSettings

    def objective(
        self, model: SoundingModel, settings: StarterEncodersSettings, context: Context
    ) -> StarterEncodersObjective:
        """See `Task`; with objects of ImageNet's first class."""
        objects = [
            ObjectEntry(caption, label, caption, "", "", "", 0.0, "", "", classes=(0,))
            for label, caption in enumerate(context.captions)
        ]
        return StarterEncodersObjective(model, settings, objects)

    def items(self, model: SoundingModel, settings: StarterEncodersSettings, data: DataSettings) -> Items:
        """See `Task`."""
        return SceneItems(ObjectSet(folder_of(data)), model)

    def build(
        self, model: SoundingModel, settings: StarterEncodersSettings, data: DataSettings, fresh: frozenset[str]
    ) -> Built:
        """See `Task`. The captions become `model.config.vocabulary`."""
        objects = read_set(folder_of(data)).visible
        vocabulary = tuple(dict.fromkeys(entry.caption for entry in objects))
        model.config = dataclasses.replace(model.config, vocabulary=vocabulary)
        return Built(StarterEncodersObjective(model, settings, objects), self.items(model, settings, data))

    def captions(self, data: DataSettings) -> Sequence[str]:
        """See `Task`; one made-up caption where the objects are not there yet."""
        if data.stamps and (Path(data.stamps) / MANIFEST).is_file():
            return [entry.caption for entry in read_set(Path(data.stamps)).visible]
        return ["an object"]


def folder_of(data: DataSettings) -> Path:
    """The folder of objects that a recipe names.

    Raises:
        ValueError: there is none.
    """
    if not data.stamps:
        raise ValueError("Scenes are drawn of a set of objects; give data.stamps.")
    return Path(data.stamps)
