"""Give a checkpoint that was trained without it `grounding.match_length`: the statistics of its conditions, measured.

A run of the grounded trainer keeps them itself; this is for models from before, whose weights stay.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from sounding.checkpoint import load_model, read_header, rewrite
from sounding.grounding import Grounding

from .data.features import fingerprint
from .data.shards import Shards

BATCH = 64


def calibrate(checkpoint: Path, features: Path, out: Path) -> float:
    """Write `checkpoint` with the mean and the length of the conditions of all captions in `features`.

    Args:
        checkpoint: any, whose other tensors stay bit by bit as they are.
        features: shards made with its encoders and VAE (`python -m training prepare features`).
        out: where to write; may be `checkpoint` itself.

    Returns:
        The length.

    Raises:
        CheckpointError: see `load_model`.
        ValueError: features of another model.
    """
    from safetensors.torch import load_file

    model = load_model(checkpoint)
    shards = Shards(features, ("patches", "queries"))
    if shards.index.model != fingerprint(model):
        raise ValueError(f"The features in {features} are not of {checkpoint}; prepare them with that checkpoint.")
    grounding = measured(model.grounding, shards)
    header = read_header(checkpoint)
    tensors = load_file(checkpoint)
    like = tensors["grounding.null"].dtype
    tensors["grounding.condition_mean"] = grounding.condition_mean.to(like).contiguous()
    tensors["grounding.condition_length"] = grounding.condition_length.to(like)
    rewrite(header, tensors, dataclasses.replace(header.config, grounding=grounding.config), out)
    return float(grounding.condition_length)


@torch.inference_mode()
def measured(grounding: Grounding, shards: Shards) -> Grounding:
    """A copy with `match_length` and the statistics over all captions and pictures of feature shards."""
    weights = grounding.state_dict()
    patches, width = (int(size) for size in shards[0]["patches"].shape[1:])
    config = dataclasses.replace(grounding.config, match_length=True)
    copy = Grounding(config, width, patches, grounding.to_query.in_features).train()
    copy.load_state_dict(copy.state_dict() | weights)
    copy.weight_count.zero_()  # statistics of this pass alone
    for first in range(0, len(shards), BATCH):
        rows = [shards[index] for index in range(first, min(first + BATCH, len(shards)))]
        queries = torch.cat([row["queries"].float() for row in rows])
        seen = torch.cat([row["patches"][:1].float().expand(len(row["queries"]), -1, -1) for row in rows])
        copy.by_query(queries, seen)
    kept = {name: weights[name] for name in ("weight_std", "weight_count")}
    copy.load_state_dict(copy.state_dict() | kept)
    return copy.eval()
