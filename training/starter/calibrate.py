"""Give a checkpoint `grounding.norm_matching`: the statistics of its conditions, measured. Weights stay as they are.

A run of the grounded trainer keeps mean and length itself; what backdrops say is measured here alone, of features of
scenes that tell what is no object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sounding.checkpoint import read_header, rewrite
from sounding.grounding import Grounding
from sounding.model import SoundingModel

from ..data.features import fingerprint, weights_fingerprint
from ..data.object_set import ObjectEntry
from ..data.shards import Shards
from ..tasks.grounded import conditions_of, mask_weights
from .thresholds import measured_thresholds

BATCH = 64
LEAST = 4.0  # patches of a backdrop that is counted


def calibrate(checkpoint: Path, features: Path, out: Path, objects: Sequence[ObjectEntry] = ()) -> float:
    """Write `checkpoint` with the mean and the length of the conditions of all captions in `features`, and with
    what backdrops' are, where the features have such.

    Args:
        checkpoint: any, whose other tensors stay bit by bit as they are.
        features: shards made with its encoders and VAE (`python -m training prepare features`).
        out: where to write; may be `checkpoint` itself.
        objects: what the features show, by label; with them the thresholds of sureness are measured as well, for which
            the features need masks.

    Returns:
        The length.

    Raises:
        CheckpointError: see `SoundingModel.from_pretrained`.
        ValueError: features of another model.
    """
    from safetensors.torch import load_file

    model = SoundingModel.from_pretrained(checkpoint)
    shards = Shards(features, ("patches", "queries"), optional=("backdrop",))
    if shards.index.model not in (fingerprint(model), weights_fingerprint(model)):
        raise ValueError(f"The features in {features} are not of {checkpoint}; prepare them with that checkpoint.")
    grounding = measured(model.grounding, shards)
    header = read_header(checkpoint)
    tensors = load_file(checkpoint)
    like = tensors["grounding.null"].dtype
    tensors["grounding.condition_mean"] = grounding.condition_mean.to(like).contiguous()
    tensors["grounding.condition_length"] = grounding.condition_length.to(like)
    if grounding.condition_backdrop is not None:
        tensors["grounding.condition_backdrop"] = grounding.condition_backdrop.to(like).contiguous()
    generation = header.config.generation
    if objects:
        model.grounding = grounding
        shown = Shards(features, ("frames", "coverage", "backdrop"))
        generation = measured_thresholds(model, shown, objects)
    config = dataclasses.replace(header.config, grounding=grounding.config, generation=generation)
    rewrite(header, tensors, config, out)
    return float(grounding.condition_length)


@torch.inference_mode()
def measured(grounding: Grounding, shards: Shards) -> Grounding:
    """A copy with `norm_matching` and the statistics over all captions, images and backdrops of feature shards."""
    weights = grounding.state_dict()
    patches, width = (int(size) for size in shards[0]["patches"].shape[1:])
    config = dataclasses.replace(grounding.config, norm_matching=True, backdrops=False)
    sizes = width, patches, grounding.to_query.in_features, grounding.thresholds
    copy = Grounding(config, *sizes).train()
    fresh = copy.state_dict()
    copy.load_state_dict(fresh | {name: value for name, value in weights.items() if name in fresh})
    copy.weight_count.zero_()  # statistics of this pass alone
    backdrops: list[Tensor] = []
    for first in range(0, len(shards), BATCH):
        rows = [shards[index] for index in range(first, min(first + BATCH, len(shards)))]
        queries = torch.cat([row["queries"].float() for row in rows])
        seen = torch.cat([row["patches"][:1].float().expand(len(row["queries"]), -1, -1) for row in rows])
        copy.by_query(queries, seen)
        free = [row for row in rows if "backdrop" in row and row["backdrop"].float().sum() > LEAST]
        if free:
            coverage = torch.stack([row["backdrop"] for row in free]).float()
            behind = torch.stack([row["patches"][0] for row in free]).float()
            backdrops.append(conditions_of(copy, mask_weights(grounding, coverage), behind))
    found = copy.state_dict() | {name: weights[name] for name in ("weight_std", "weight_count")}
    if backdrops:
        found["condition_backdrop"] = torch.cat(backdrops).mean(dim=0) - copy.condition_mean
        copy = Grounding(dataclasses.replace(config, backdrops=True), *sizes)
    copy.load_state_dict(found)
    return copy.eval()
