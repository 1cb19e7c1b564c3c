"""Items that take long to make and never change, kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sounding.utils.files import replacing


class TensorCache:
    """A file an item, in a folder of their own for all that is made of the same."""

    def __init__(self, folder: Path, of: str, weights: Mapping[str, Tensor], content: Iterable[np.ndarray] = ()):
        """`of`, `weights` and `content` (images, sounds) are all that the items depend on."""
        digest = hashlib.sha256(of.encode())
        for name, value in weights.items():
            digest.update(f" {name} {tuple(value.shape)} {value.dtype} ".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for values in content:
            digest.update(f" {values.shape} {values.dtype} ".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        self.folder = folder / digest.hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, index: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The item, which `make` gives if it is not there or damaged."""
        file = self.folder / f"{index:06d}.safetensors"
        if file.is_file():
            try:
                return dict(load_file(file))
            except SafetensorError:  # cut off by a machine that went down
                pass
        made = make()
        with replacing(file) as temporary:
            save_file(made, temporary)
        return made
