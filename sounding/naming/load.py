"""A namer out of the box or a checkpoint: an image tower and the part that gives its answers names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoint import STARTER_NAMES, CheckpointError, read_header, resolve
from ..config import NAMING
from ..encoders.patches import PatchEncoder
from ..loading import build, read_parts
from .classes import ClassNames
from .config import NamingConfig
from .names import Labels, Named
from .part import NamingPart
from .zero_shot import ZeroShotNames


def build_naming(config: NamingConfig, width: int) -> NamingPart:
    """The configured kind, for an image tower with patches of `width`."""
    return ClassNames(config, width) if config.kind == "classes" else ZeroShotNames(config, width)


@dataclass(frozen=True)
class Namer:
    """Tells what masks show."""

    encoder: PatchEncoder
    part: NamingPart

    @property
    def labels(self) -> Labels:
        """All names that it can give."""
        return self.part.labels

    def name(self, image: Tensor, mask: Tensor | None = None, *, top: int = 5) -> list[Named]:
        """What each mask shows, one result per mask; see `NamingPart.name`.

        Args:
            image: [1, H, W, 3] 0..1, or one per mask.
            mask: [B, H, W] 0..1; without it, the whole image is named.
            top: how many of the likeliest names are listed.

        Raises:
            ValueError: not an image, an empty mask, numbers that do not fit.
        """
        return self.part.name(self.encoder, image, mask, top=top)


def load_namer(which: str | os.PathLike[str] = STARTER_NAMES, *, device: torch.device | str = "cpu") -> Namer:
    """Load the namer in the box, or that of a checkpoint with a `naming` part.

    Raises:
        CheckpointError: no such file, or one that has no names.
    """
    header = read_header(resolve(which))
    patches, naming = header.config.patches, header.config.naming
    if naming is None:
        raise CheckpointError(
            f"{header.path} gives no names; convert it again from a CLIP with its text tower, or name 'starter-names'."
        )
    parts = ("patches", NAMING)
    modules = build(
        header,
        lambda: nn.ModuleDict({"patches": PatchEncoder(patches), NAMING: build_naming(naming, patches.width)}).eval(),
        parts,
    )
    read_parts(modules, header, parts, dtype=torch.float32, device=device)
    return Namer(cast(PatchEncoder, modules["patches"]), cast(NamingPart, modules[NAMING]))


def namer_of(model: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Namer:
    """The namer of a checkpoint where it has one, else the one in the box.

    Raises:
        CheckpointError: no such file.
    """
    has_names = read_header(resolve(model)).config.naming is not None
    return load_namer(model if has_names else STARTER_NAMES, device=device)


@lru_cache(maxsize=1)
def boxed_namer() -> Namer:
    """The namer in the box, read once.

    Raises:
        CheckpointError: its file is missing, damaged or another one.
    """
    try:
        return load_namer()
    except CheckpointError as error:
        raise CheckpointError(f"The namer in the box cannot be used; reinstall the pack ({error})") from None
