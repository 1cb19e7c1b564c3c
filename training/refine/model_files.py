"""Which weights a step uses: named by a digest in its fingerprint, and looked for before a run begins."""

from __future__ import annotations

import hashlib
from pathlib import Path

ENDS = 2**20  # bytes at each end of a file that count; weights that differ do so in their last tensor


def digest(*paths: str) -> str:
    """Names files and folders by their sizes and the first and last MiB of each file, so that it takes no minutes.

    Raises:
        ValueError: one is missing.
    """
    total = hashlib.sha256()
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} is missing, but the settings name it as a model; check the path.")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            size = file.stat().st_size
            total.update(f"{file.relative_to(path) if path.is_dir() else ''} {size}\n".encode())
            with file.open("rb") as opened:
                total.update(opened.read(ENDS))
                if size > ENDS:
                    opened.seek(max(ENDS, size - ENDS))
                    total.update(opened.read(ENDS))
    return total.hexdigest()[:16]


def device_for(asked: str) -> str:
    """Where a worker computes; "auto" takes CUDA where the worker sees some, then Apple's MPS, then the CPU."""
    from sounding.utils.devices import device_of

    return str(device_of(asked))
