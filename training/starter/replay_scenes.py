"""Items of class-feature replay: scenes up to the patch tower's last layer, and objects made by feature inversion."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel

from ..data.object_set import ObjectSet
from ..data.tensor_cache import TensorCache
from ..engine.loader import Item
from .encoders import SceneItems
from .imagenet import class_table, known_classes, published_head
from .inversion import CellStatistics, TargetClasses, blocks, invert
from .replay import LastLayers, ReplaySettings

log = logging.getLogger("training")
AT_ONCE = 500
SECOND_CLASS = 0.7  # largest share of a second class of its kind in an inverted object


class ReplayItems:
    """Scenes of stamps, each with a photograph without objects, and inverted objects. All are made at once, which
    takes minutes, or read where an earlier run kept them.

    Raises:
        ValueError: ImageNet has a class for none of the stamps.
    """

    def __init__(self, stamps: ObjectSet, model: SoundingModel, settings: ReplaySettings):
        self.per_item = settings.inverted_per_item
        scenes, patches = SceneItems(stamps, model, backdrops=True), model.patches
        names = [stamp.caption for stamp in stamps.entries]
        if not any(known_classes(names)):
            raise ValueError(
                f"The {len(names)} stamps are of nothing that ImageNet has a class for, but its classes are to be "
                "replayed; add them to training/starter/imagenet_classes.json, or leave this stage out."
            )
        of = f"{patches.config} {names} {known_classes(names)} {settings.scenes} {settings.inverted}"
        pictures_of = (np.asarray(cutout) for cutout in stamps.cutouts)
        cache = TensorCache(Path(settings.cache), of, patches.state_dict(), pictures_of) if settings.cache else None
        self.items: list[dict[str, Tensor]] = []
        for index in range(settings.scenes):
            make = partial(_seen, scenes, patches, index)
            self.items.append(cache.get(index, make) if cache else make())
            if (index + 1) % AT_ONCE == 0:
                log.info("%d of %d scenes are seen", index + 1, settings.scenes)
        pictures = torch.cat([torch.stack([item[name] for item in self.items]) for name in ("cells", "backdrop")])
        usual = CellStatistics(pictures.shape[2])
        usual.observe(pictures)
        self.made: list[dict[str, Tensor]] = []
        for part in range(-(-settings.inverted // AT_ONCE)):
            count = min(AT_ONCE, settings.inverted - part * AT_ONCE)
            make = partial(inverted_objects, LastLayers(patches.tower), pictures, usual, names, count, seed=part)
            self.made.append(cache.get(settings.scenes + part, make) if cache else make())
        log.info("%d objects are made by feature inversion", settings.inverted)

    def __len__(self) -> int:
        return len(self.items)

    def item(self, index: int, rng: np.random.Generator) -> Item:
        """cells [P, C] fp16 of an image, backdrop [P, C] of one without objects, grids [4, P], labels [4], a seed;
        made [M, K, C] cells of inverted objects and their class [M].
        """
        parts = [self.made[int(rng.integers(len(self.made)))] for _ in range(self.per_item)]
        drawn = [(part, int(rng.integers(len(part["class"])))) for part in parts]
        made = {name: torch.stack([part[name][at] for part, at in drawn]) for name in ("made", "class")}
        return {"id": f"scene {index}", **self.items[index], **made, "seed": torch.tensor(int(rng.integers(2**31)))}


@torch.no_grad()
def _seen(scenes: SceneItems, patches: PatchEncoder, index: int) -> dict[str, Tensor]:
    drawn = scenes.item(index, np.random.default_rng(index))
    trunk = patches.tower.trunk
    pixels = patches.preprocess(torch.stack([drawn["image"], drawn["backdrop"]]))
    maps = trunk.blocks(trunk.bn1(trunk.conv_stem(pixels)))
    cells, backdrop = maps.flatten(2).transpose(1, 2).half().contiguous()
    return {"cells": cells, "backdrop": backdrop.clone(), "grids": drawn["grids"], "labels": drawn["labels"]}


def inverted_objects(
    last: LastLayers, pictures: Tensor, usual: CellStatistics, names: list[str], count: int, *, seed: int
) -> dict[str, Tensor]:
    """`made` [count, K, C] fp16 and their `class` [count].

    Args:
        last: the layers that ImageNet's head belongs to.
        images: [B, P, C] cells of real images.
        usual: those counted.
        names: captions of objects. One of many kinds (dogs) is drawn more often, but less than its kinds are many.
        count: how many.
        seed: of all that is drawn.
    """
    head, classes, generator = published_head(), class_table(names), torch.Generator().manual_seed(seed)
    grid = round(pictures.shape[1] ** 0.5)
    chosen = torch.multinomial(classes.sum(dim=-1).sqrt(), count, replacement=True, generator=generator)
    kinds = torch.multinomial(classes[chosen], 2, replacement=True, generator=generator)
    wanted = TargetClasses(kinds[:, 0], kinds[:, 1], SECOND_CLASS * torch.rand(count, generator=generator))
    at = blocks(count, grid, generator, pictures.device)
    begin = pictures[torch.randint(len(pictures), (count, 1), generator=generator), at].float()

    def answer(moved: Tensor) -> Tensor:
        return cast(Tensor, head(last.features(moved).mean(dim=1)))

    made = invert(answer, begin, wanted, usual, generator=generator)
    return {"made": made.half().contiguous(), "class": wanted.first.clone()}
