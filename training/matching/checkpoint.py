"""A trained matching network as one .safetensors file, its configuration in the header; read strictly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from sounding.checkpoint import check_header_size
from sounding.networks.meta import filled, finite
from sounding.utils.fields import from_dict, parse_json
from sounding.utils.files import replacing
from sounding.utils.messages import printable
from sounding.weights.reading import read_state

from .network import MatchingConfig, MatchingNetwork

CONFIG = "sounding.matching"  # key of the header


class MatchingCheckpointError(ValueError):
    """A file that is not a complete matching network; the message says what to do."""


def write_matching(
    path: Path,
    network: MatchingNetwork,
    *,
    dtype: torch.dtype = torch.float32,
    record: Mapping[str, str] | None = None,
) -> None:
    """Write a network in one step: a crash leaves the old file as it was.

    Raises:
        MatchingCheckpointError: a weight that is not finite in `dtype`.
        FullDiskError: no room.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    for name, value in tensors.items():
        if not finite(value):
            raise MatchingCheckpointError(f"{name!r} is not finite as {dtype}, so nothing was written; save float32.")
    metadata = {**(record or {}), CONFIG: json.dumps(dataclasses.asdict(network.config))}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_matching(path: Path) -> MatchingNetwork:
    """The network of a file, in float32 on the CPU, frozen and in evaluation mode.

    Sizes that a header only claims take no memory: names and shapes of all tensors are compared first.

    Raises:
        MatchingCheckpointError: another kind of file, a damaged one, missing or foreign tensors, or weights that are
            not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(CONFIG)
        if described is None:
            raise ValueError(f"no {CONFIG} in its header")
        values = parse_json(described)
        if not isinstance(values, dict):
            raise ValueError(f"{CONFIG} is a {type(values).__name__}, but an object is expected")
        config: MatchingConfig = from_dict(MatchingConfig, values)
        network = filled(lambda: MatchingNetwork(config), read_state(path))
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        said = printable(" ".join(str(error).split()), 300)
        raise MatchingCheckpointError(
            f"{path} is not a matching network ({said}); give one that `python -m training run "
            "training/recipes/matching.yaml` wrote."
        ) from None
    return network.requires_grad_(False).eval()
