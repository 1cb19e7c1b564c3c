"""From which numbers on a selection counts as an object, and a text as a known one, measured instead of chosen.

The thresholds of `sounding.config.GenerationConfig` part two distributions each. A pair begins at the first number of
what is no object (or not known) and ends where nearly all that is one lies beyond.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sounding.config import GenerationConfig
from sounding.encoders.text import OpenClipQuery
from sounding.grounding import Grounding, least_cosine
from sounding.model import SoundingModel
from sounding.naming.vocabulary import BUILT_IN, read_vocabulary

from ..data.object_set import ObjectEntry
from ..data.shards import Shards
from ..tasks.grounded import mask_weights

NEARLY_ALL = 0.98  # share of what is an object, or known, that counts fully as that
MOST_OTHERS = 0.8  # share of what is not that counts for nothing, where both can be had
LEAST_STEP = 0.05  # between the two thresholds of a cosine
LEAST_COVER = 2.0  # patches of an object that is counted
WEAK = 0.2  # below this share of the length that nearly all objects have, a condition is of nothing
BATCH = 64


def measured_thresholds(model: SoundingModel, shards: Shards, objects: Sequence[ObjectEntry]) -> GenerationConfig:
    """The model's generation settings with thresholds of its own.

    Args:
        model: with `grounding.norm_matching`, and the mean condition of backdrops.
        shards: features of scenes, with the fields frames, coverage and backdrop.
        objects: all that it knows, with their names.
    """
    seen, behind = _conditions(model.grounding, shards)
    of_objects, of_backdrops = (_beside_backdrop(model.grounding, found) for found in (seen, behind))
    length = float(of_objects[1].quantile(1 - NEARLY_ALL))
    known, foreign = _name_cosines(cast(OpenClipQuery, model.query), objects)
    return dataclasses.replace(
        model.config.generation,
        backdrop_cosine=_apart(of_objects[0].neg(), of_backdrops[0].neg(), -1.0),
        norm_ratio_beside_cosine=(round(WEAK * length, 3), round(length, 3)),
        patch_cosine=_apart(-least_cosine(_patches(shards)), -least_cosine(_plain(model)), -1.0),
        name_cosine=_apart(known, foreign, 1.0),
    )


def _apart(wanted: Tensor, others: Tensor, sign: float) -> tuple[float, float]:
    """Thresholds (where it counts for nothing, where fully) of numbers that are larger for what is `wanted`."""
    one = float(wanted.quantile(1 - NEARLY_ALL))
    zero = min(float(others.quantile(MOST_OTHERS)), one - LEAST_STEP)
    return round(sign * zero, 3), round(sign * one, 3)


def _beside_backdrop(grounding: Grounding, conditions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [N] of conditions with the direction of backdrops', and their lengths relative to the usual one."""
    assert grounding.condition_backdrop is not None
    away = conditions - grounding.condition_mean.float()
    cosine = functional.cosine_similarity(away, grounding.condition_backdrop.float()[None], dim=-1)
    return cosine, away.norm(dim=-1) / grounding.condition_length.float()


@torch.inference_mode()
def _conditions(grounding: Grounding, shards: Shards) -> tuple[Tensor, Tensor]:
    """Conditions [N, D] by the masks of what sounds and of what is no object, before `match_norm`; all frames."""
    was, found = grounding.training, {"coverage": [], "backdrop": []}  # type: ignore[var-annotated]
    grounding.train()  # conditions as they are
    try:
        for row in (shards[number] for number in range(len(shards))):
            frames = torch.stack([row["frames"][number].float() for number in range(len(row["frames"]))])
            for name, rows in found.items():
                coverage = row[name].float()
                if float(coverage.sum()) >= LEAST_COVER:
                    weights = mask_weights(grounding, coverage[None].expand(len(frames), -1))
                    rows.append(grounding.gather(weights[:, None], frames)[:, 0].float())
    finally:
        grounding.train(was)
    return torch.cat(found["coverage"]), torch.cat(found["backdrop"])


def _patches(shards: Shards, most: int = 1000) -> Tensor:
    """[N, P, L] of scenes as they were seen."""
    return torch.stack([shards[number]["frames"][0].float() for number in range(min(most, len(shards)))])


@torch.inference_mode()
def _plain(model: SoundingModel) -> Tensor:
    """[N, P, L] of images that show nothing: greys, and noise."""
    generator = torch.Generator().manual_seed(0)
    side = model.config.patches.image_size
    images = [torch.full((side, side, 3), level) for level in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for coarse in (1, 4, 16):
        noise = torch.rand(1, 3, -(-side // coarse), -(-side // coarse), generator=generator)
        images.append(functional.interpolate(noise, (side, side), mode="nearest")[0].movedim(0, -1))
    return model.patches(torch.stack(images)).float().cpu()


@torch.inference_mode()
def _name_cosines(query: OpenClipQuery, objects: Sequence[ObjectEntry]) -> tuple[Tensor, Tensor]:
    """Cosines with the nearest caption: of the objects' other names, and of names of things that are none of them."""
    captions = _embedded(query, [entry.caption for entry in objects])
    names = {name.casefold() for entry in objects for name in entry.all_captions}
    others = [name for name in read_vocabulary(BUILT_IN).names if not _among(name, names)]
    own = _embedded(query, [name for entry in objects for name in entry.captions])
    return (own @ captions.T).amax(dim=-1), (_embedded(query, others) @ captions.T).amax(dim=-1)


def _embedded(query: OpenClipQuery, texts: Sequence[str]) -> Tensor:
    parts = [query.encode(list(texts[first : first + BATCH])).float() for first in range(0, len(texts), BATCH)]
    return functional.normalize(torch.cat(parts), dim=-1)


def _among(name: str, names: Iterable[str]) -> bool:
    """Whether a thing's name is a part of one of the names."""
    return any(name.casefold() in known for known in names)
