"""Items that take long to make and never change, kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sounding.files import replacing


class TensorCache:
    """A file an item, in a folder of their own for all that is made of the same."""

    def __init__(self, folder: Path, of: str, weights: Mapping[str, Tensor]):
        """`of` and `weights` say what the items depend on."""
        digest = hashlib.sha256(of.encode())
        for value in weights.values():
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        self.folder = folder / digest.hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, index: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The item, which `make` gives if it is not there."""
        file = self.folder / f"{index:06d}.safetensors"
        if not file.is_file():
            with replacing(file) as temporary:
                save_file(make(), temporary)
        return dict(load_file(file))
