"""Which device weights go to."""

from __future__ import annotations

import torch


def device_of(name: torch.device | str) -> torch.device:
    """A device; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)
