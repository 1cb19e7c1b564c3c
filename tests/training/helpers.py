"""Short recipes, what they logged, and a batch of every kind of condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sounding.config import SoundingConfig
from training.engine.settings import LoopConfig
from training.recipe import Recipe


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What a run logged, one entry per line of its log.jsonl."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def recipe_of(task: Any, config: SoundingConfig, out: Path, **more: Any) -> Recipe:
    loop = LoopConfig(steps=80, batch=4, lr=3e-3, warmup=5, log_every=10, precision="fp32")
    return Recipe(
        **{"task": task, "name": task, "loop": loop, "out": str(out), "model": config, "dtype": "fp32"} | more
    )


def random_batch() -> dict[str, Tensor]:
    return {
        "latents": torch.randn(3, 8, 8, 16),
        "noise": torch.randn(3, 8, 8, 16),
        "time": torch.tensor([20, 400, 900]),
        "patches": torch.randn(3, 25, 16),
        "query": torch.randn(3, 16),
        "coverage": torch.rand(3, 25),
        "shown": torch.tensor([True, True, True]),
        "by_mask": torch.tensor([False, True, True]),
        "dropped": torch.tensor([False, False, True]),
    }
