"""The click decoder as a part of its own: taken out of one checkpoint, put into another with the same patch tower."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from sounding.checkpoint import CheckpointError, Header, digest, read_header, rewrite
from sounding.config import SegmenterConfig, from_dict
from sounding.utils.files import replacing
from sounding.utils.messages import printable

from ..tasks.segmenter import backbone_tensors

PART, TOWER = "segmenter.", "patches."
PART_KEY, TOWER_KEY = "sounding.segmenter", "sounding.segmenter.patches"


def take_segmenter(checkpoint: Path, out: Path) -> None:
    """Write the click decoder of a checkpoint to a file of its own, fp16, with a digest of the tower it sees by.

    Raises:
        CheckpointError: see `read_header`, or it has none.
    """
    from safetensors.torch import save_file

    config, tensors, tower = _read(checkpoint)
    metadata = {PART_KEY: json.dumps(dataclasses.asdict(config)), TOWER_KEY: tower}
    with replacing(out) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def put_segmenter(source: Path, checkpoint: Path, out: Path | None = None) -> None:
    """Write `checkpoint` with the click decoder of `source`, all other tensors bit by bit as they are.

    Args:
        source: a checkpoint that has one, or a file of `take_segmenter`.
        checkpoint: any checkpoint with the same patch tower; a decoder that it has is replaced.
        out: where to write; without it `checkpoint` itself, in one step.

    Raises:
        CheckpointError: no such file, no decoder in it, or another patch tower.
    """
    from safetensors.torch import load_file

    config, mine, tower = _read(source)
    header = read_header(checkpoint)
    tensors = {name: value for name, value in load_file(checkpoint).items() if not name.startswith(PART)}
    if _tower_digest(tensors) != tower:
        raise CheckpointError(
            f"{checkpoint} has another patch tower than the one that the segmenter of {source} was trained on; train "
            "one for it with `python -m training run training/recipes/starter/segmenter.yaml`."
        )
    tensors |= mine
    rewrite(header, tensors, dataclasses.replace(header.config, segmenter=config), out)


def _read(path: Path) -> tuple[SegmenterConfig, dict[str, Tensor], str]:
    """Configuration, fp16 tensors and the digest of the tower, of either kind of file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable .safetensors file ({printable(error, 200)}); give one with a segmenter."
        ) from None
    tensors = load_file(path)
    mine = {name: value.half() for name, value in tensors.items() if name.startswith(PART)}
    if PART_KEY in metadata:
        config, tower = from_dict(SegmenterConfig, json.loads(metadata[PART_KEY])), metadata.get(TOWER_KEY, "")
    else:
        header: Header = read_header(path)
        config, tower = header.config.segmenter, _tower_digest(tensors)
    if config is None or not mine:
        raise CheckpointError(f"{path} has no segmenter, but one is expected; train it, or give another file.")
    return config, mine, tower


def _tower_digest(tensors: dict[str, Tensor]) -> str:
    """Of the patch tower in fp16, which is what checkpoints hold in the end."""
    tower = backbone_tensors({k.removeprefix(TOWER): value for k, value in tensors.items() if k.startswith(TOWER)})
    return digest({k: v.to(torch.float16).contiguous() if v.is_floating_point() else v for k, v in tower.items()})
