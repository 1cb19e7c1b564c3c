"""Figures of a run: their means since the last log, and log.jsonl, a line of JSON per log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sounding.utils.files import write_atomic


class Means:
    """Running sums of named scalars, each kept on its device until `take` reads all at once: a GPU never waits for a
    report between logs.

    Args:
        ratios: scalars that are logged over another one, see `Objective.ratios`.
    """

    def __init__(self, ratios: Mapping[str, str]) -> None:
        self.ratios = ratios
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Count the scalars of one step in.

        Raises:
            ValueError: a scalar has more than one element.
        """
        for name, value in scalars.items():
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    raise ValueError(
                        f"Scalar {name!r} has shape {tuple(value.shape)}, but one number is expected; give its mean."
                    )
                # Sums are new tensors: what is given may be changed in place by the next step. Where numbers of
                # 64 bits are slow or missing, 32 do.
                wide = torch.float64 if value.device.type == "cpu" else torch.float32
                value = value.detach().reshape(()).to(wide)
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Means since the last call; a name's mean is over the steps that gave it."""
        tensors = {name: value for name, value in self.sums.items() if isinstance(value, Tensor)}
        read: dict[str, float] = {}
        for device in {value.device for value in tensors.values()}:  # one wait per device
            names = [name for name, value in tensors.items() if value.device == device]
            read |= zip(names, torch.stack([tensors[name] for name in names]).tolist(), strict=True)
        means = {name: read.get(name, value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        figures = {name: float(value) for name, value in means.items()}
        for name, of in self.ratios.items():
            if name in figures and of in figures:
                value = figures.pop(name)
                if figures[of]:
                    figures[name] = value / figures[of]
        return {name: value for name, value in figures.items() if name not in self.ratios.values()}


def append_line(file: Path, figures: Mapping[str, float]) -> None:
    """One more line of a log.jsonl. JSON has no NaN: what is not finite is null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(finite, allow_nan=False) + "\n")


def cut_log(file: Path, step: int) -> float:
    """Cut lines of `step` and later off a log.jsonl, and a last one that a crash left half written.

    Returns:
        Seconds that the run had taken at the last line kept.
    """
    if not file.is_file():
        return 0.0
    text = file.read_text(encoding="utf-8")
    kept, seconds = [], 0.0
    for line in text.splitlines():
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:
            continue
        if figures["step"] < step:
            kept.append(line + "\n")
            seconds = figures.get("seconds", seconds)
    if "".join(kept) != text:
        write_atomic(file, "".join(kept).encode())
    return float(seconds)
