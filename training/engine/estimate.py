"""What a training will take, before it starts: parameters, memory, operations, time.

Memory and operations are those of one item's step (`training.engine.probe`), time follows from the measured speed of
the device that is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .probe import Example, probe_step

if TYPE_CHECKING:
    from rich.table import Table

# Share of the speed of large matrix products that a training step of convolutions and norms reaches. Assumed.
UTILISATION = 0.35

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Numbers of parameters of one child of the module."""

    name: str
    learning: int
    frozen: int


@dataclass(frozen=True)
class Estimate:
    """Memory in bytes for one process, operations for a step of all processes (a multiply-add is two)."""

    parts: tuple[Part, ...]
    weights: int  # parameters and buffers
    gradients: int
    moments: int  # AdamW's two
    average: int  # the running average (EMA)
    copies: int  # weights in another form, kept for the backward pass: cast to half precision, weight-normed
    activations: int  # of the items that one process has at once
    flops: int
    steps: int
    batch: int
    processes: int
    accumulate: int  # micro-batches a step
    precision: str
    device: str
    speed: float  # operations a second of large matrix products
    measured_by: str  # "fake tensors" or "a real step"

    @property
    def memory(self) -> int:
        """Bytes of one process. The device's own workspaces come on top."""
        return self.weights + self.gradients + self.moments + self.average + self.copies + self.activations

    @property
    def seconds_per_step(self) -> float:
        """Operations of one process over what it reaches of the device's speed."""
        return self.flops / self.processes / (self.speed * UTILISATION)

    @property
    def hours(self) -> float:
        """The whole run's."""
        return self.seconds_per_step * self.steps / 3600

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much, and a note."""
        learning, frozen = (sum(getattr(part, kind) for part in self.parts) for kind in ("learning", "frozen"))
        rows = [
            (part.name, f"{_count(part.learning)} learn", f"{_count(part.frozen)} frozen" if part.frozen else "")
            for part in (*self.parts, Part("all parameters", learning, frozen))
        ]
        share = -(-self.batch // (self.processes * self.accumulate))
        notes = {
            "weights": "parameters and buffers",
            "gradients": "and their copies on the way to other processes" if self.processes > 1 else "",
            "moments": "AdamW",
            "average": "EMA" if self.average else "none kept",
            "copies": "weights as the steps use them",
            "activations": f"{share} items at once, by {self.measured_by}",
        }
        rows += [(name, _bytes(getattr(self, name)), note) for name, note in notes.items()]
        rows.append(("memory of a process", _bytes(self.memory), "without the device's workspaces"))
        rows.append(("operations a step", f"{self.flops / 1e9:.4g} GFLOP", f"{self.batch} items, forward and backward"))
        speed = f"{UTILISATION:.0%} of {self.speed / 1e12:.3g} TFLOP/s ({self.precision}, {self.device})"
        rows.append(("time a step", f"{self.seconds_per_step:.3g} s", f"{speed}, {self.processes} processes"))
        rows.append(("time of the run", f"{self.hours:.3g} h", f"{self.steps} steps; data and previews not counted"))
        return rows

    def table(self) -> Table:
        """For a rich console."""
        from rich.table import Table

        table = Table(title="Estimate")
        table.add_column("what")
        table.add_column("how much", justify="right")
        table.add_column("note", style="dim")
        for row in self.rows():
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        """The rows as plain text."""
        rows = self.rows()
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {note}".rstrip() for a, b, note in rows)


def estimate(
    module: nn.Module,
    example: Example,
    *,
    batch: int,
    steps: int,
    mixed_precision: str = "no",
    ema: bool | float = False,
    processes: int = 1,
    accumulate: int = 1,
    speed: float | None = None,
) -> Estimate:
    """Estimate a training with AdamW. The module is left as it is.

    Args:
        module: what a step runs. What learns has `requires_grad`.
        example: `example(device)` makes one item of input there: a tuple of positional arguments, a dict of keyword
            arguments, or the one argument. The module gives a loss, or anything of tensors, which are summed (of a
            mapping with "loss" only that).
        batch: items a step, over all processes.
        steps: of the whole run.
        mixed_precision: "no", "bf16" or "fp16", as accelerate calls them.
        ema: whether a running average of the weights is kept (its decay will do).
        processes: that share a batch.
        accumulate: micro-batches that each process makes of its share, one after the other.
        speed: operations a second; measured here without.

    Raises:
        ValueError: an argument is out of its range, or nothing learns.
    """
    if mixed_precision not in DTYPES:
        raise ValueError(f"mixed_precision is {mixed_precision!r}, but one of {', '.join(DTYPES)} is expected.")
    if min(batch, steps, processes, accumulate) < 1:
        raise ValueError(
            f"batch {batch}, steps {steps}, processes {processes} and accumulate {accumulate} came, but 1 or more are "
            "expected."
        )
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError("Nothing learns: no parameter of the module has requires_grad; set it for those that shall.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[mixed_precision]
    probed = probe_step(module, example, device, dtype)
    learned = _size(learning)
    return Estimate(
        parts=_parts(module),
        weights=_size([*module.parameters(), *module.buffers()]),
        # DistributedDataParallel's buckets hold a second copy.
        gradients=learned * (2 if processes > 1 else 1),
        moments=2 * learned,
        average=learned if ema else 0,
        copies=probed.copies,
        activations=probed.saved * -(-batch // (processes * accumulate)),
        flops=probed.flops * batch,
        steps=steps,
        batch=batch,
        processes=processes,
        accumulate=accumulate,
        precision=mixed_precision,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        speed=measure_speed(device, dtype) if speed is None else speed,
        measured_by=probed.by,
    )


def measure_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product: the best of ten rounds."""
    size, repeats = (8192, 10) if device.type == "cuda" else (768, 1)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):  # the first warms up
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - began))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parts(module: nn.Module) -> tuple[Part, ...]:
    """Parameters of each child; what several share counts for the first, what the module itself owns comes last."""
    seen: set[int] = set()
    parts = []
    for name, owner in [*module.named_children(), ("(its own)", module)]:
        own = [parameter for parameter in owner.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in own}
        learning = sum(parameter.numel() for parameter in own if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in own) - learning
        if own:
            parts.append(Part(name, learning, frozen))
    return tuple(parts)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number}"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 / 10 else f"{number / 2**20:.2f} MiB"
