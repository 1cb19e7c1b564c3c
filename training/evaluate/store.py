"""Embeddings and logits of a folder of sounds on disk, row by row, so that runs are resumed and memory stays flat."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sounding.utils.files import replacing, write_atomic

from .intervals import Array


class Finding(IntFlag):
    """What is to be known of a sound that was measured as it is; `done` is set with its features."""

    done = 1
    silent = 2
    clipped = 4
    mixed_to_mono = 8
    resampled = 16
    padded = 32
    cut = 64


class Rows:
    """Chosen rows of a memory map in a given order: read when they are asked for, by slices or index arrays."""

    ndim = 2

    def __init__(self, values: Array, chosen: NDArray[np.integer]):
        self.values, self.chosen = values, chosen
        self.shape = (len(chosen), values.shape[1])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: Any) -> Array:
        return self.values[self.chosen[key]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.values[self.chosen], dtype)


@dataclass(frozen=True)
class Store:
    """Features of the files of one folder: memory maps [N, D], [N, C] and findings [N], in the order of `names`.

    With several windows per file, embeddings are [N, windows * D].
    """

    folder: Path
    names: list[str]
    embeddings: Array
    logits: Array
    findings: NDArray[np.uint8]
    windows: int = 1

    @classmethod
    def open(
        cls, folder: Path, names: list[str], description: dict[str, Any], width: int, classes: int, windows: int = 1
    ) -> Store:
        """What an earlier run of the same description left, or an empty one.

        Args:
            folder: to keep it in.
            names: of the items.
            description: all that features depend on (files, model, length); JSON.
            width: D.
            classes: C.
            windows: per file.
        """
        said = json.dumps(description, sort_keys=True)
        kept = folder / "description.json"
        shapes = {
            "embeddings": (len(names), windows * width),
            "logits": (len(names), classes),
            "findings": (len(names),),
        }
        mode = "r+" if kept.is_file() and kept.read_text(encoding="utf-8") == said else "w+"
        if mode == "w+":
            kept.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        maps = {
            part: np.lib.format.open_memmap(
                folder / f"{part}.npy", mode, np.uint8 if part == "findings" else np.float32, shape
            )
            if 0 not in shape
            else np.zeros(shape, np.float32)
            for part, shape in shapes.items()
        }
        if mode == "w+":
            for part, shape in shapes.items():
                if 0 not in shape:
                    _reserve(folder / f"{part}.npy")
            write_atomic(kept, said.encode())
        return cls(folder, names, maps["embeddings"], maps["logits"], maps["findings"].view(np.uint8), windows)

    def put(self, rows: list[int], embeddings: Array, logits: Array, findings: list[Finding]) -> None:
        """Write features of some rows; findings come last, as they say that the rest is there."""
        self.embeddings[rows], self.logits[rows] = embeddings, logits
        for part in (self.embeddings, self.logits):
            if isinstance(part, np.memmap):
                part.flush()
        self.findings[rows] = [int(finding | Finding.done) for finding in findings]

    def missing(self) -> list[int]:
        """Rows without features."""
        return np.flatnonzero(self.findings & Finding.done == 0).tolist()

    def found(self, finding: Finding) -> list[str]:
        """Names with a finding."""
        return [self.names[row] for row in np.flatnonzero(self.findings & finding)]

    def rows(self, names: Iterable[str]) -> NDArray[np.integer]:
        """Rows of names, in their order."""
        at = {name: row for row, name in enumerate(self.names)}
        return np.array([at[name] for name in names], int)


def _reserve(path: Path) -> None:
    """Take the room on the disk now: a memory map that runs out of it would end the process without a word."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_npz(path: Path, stores: dict[str, Store]) -> None:
    """All stores as one .npz, streamed: `SYSTEM/names`, `SYSTEM/embeddings`, `SYSTEM/logits`, `SYSTEM/findings`.

    Embeddings are [N, D], or [N, windows, D] with several windows per file.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for system, store in stores.items():
            width = store.embeddings.shape[1] // store.windows
            shape = (-1, width) if store.windows == 1 else (-1, store.windows, width)
            parts = {
                "names": np.array(store.names, dtype=np.str_),
                "embeddings": store.embeddings.reshape(shape),
                "logits": store.logits,
                "findings": store.findings,
            }
            for part, values in parts.items():
                with archive.open(f"{system}/{part}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
