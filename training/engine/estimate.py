"""What a training will take, before it starts: parameters, memory, operations, time.

Memory and operations are those of one step with fake tensors (tensors without numbers that know which device they would
be on): it takes neither memory nor a GPU, but has the shapes, types and casts of mixed precision that the device would
have. Time follows from the speed of the device that is there.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CPU = torch.device("cpu")
log = logging.getLogger("training")

# Share of the speed of large matrix products that a training step of convolutions and norms reaches. Assumed.
UTILISATION = 0.35

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Example = Callable[[torch.device], dict[str, Any]]


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
    moments: int  # AdamW's two, also of weights of which Muon keeps one
    average: int  # the running average (EMA)
    activations: int  # kept for the backward pass, with casts of weights to half precision
    flops: int
    steps: int
    batch: int
    processes: int
    accumulate: int  # micro-batches per step
    precision: str
    device: str
    speed: float  # operations per second of large matrix products

    @property
    def memory(self) -> int:
        """Bytes of one process. The device's own workspaces come on top."""
        return self.weights + self.gradients + self.moments + self.average + self.activations

    @property
    def seconds_per_step(self) -> float:
        """Operations of one process over what it reaches of the device's speed."""
        return self.flops / self.processes / (self.speed * UTILISATION)

    @property
    def hours(self) -> float:
        """The whole run's."""
        return self.seconds_per_step * self.steps / 3600

    def __str__(self) -> str:
        """A table of what, how much, and a note."""
        learning, frozen = (sum(getattr(part, kind) for part in self.parts) for kind in ("learning", "frozen"))
        rows = [
            (part.name, f"{_count(part.learning)} learn", f"{_count(part.frozen)} frozen" if part.frozen else "")
            for part in (*self.parts, Part("all parameters", learning, frozen))
        ]
        share = micro_batch(self.batch, self.processes, self.accumulate)
        speed = f"{UTILISATION:.0%} of {self.speed / 1e12:.3g} TFLOP/s ({self.precision}, {self.device})"
        rows += [
            ("weights", _bytes(self.weights), "parameters and buffers"),
            ("gradients", _bytes(self.gradients), "with the buckets that processes exchange" * (self.processes > 1)),
            ("moments", _bytes(self.moments), "AdamW"),
            ("average", _bytes(self.average), "EMA" if self.average else "none kept"),
            ("activations", _bytes(self.activations), f"{share} items at once"),
            ("memory per process", _bytes(self.memory), "without the device's workspaces"),
            ("operations per step", f"{self.flops / 1e9:.4g} GFLOP", f"{self.batch} items, forward and backward"),
            ("time per step", f"{self.seconds_per_step:.3g} s", f"{speed}, {self.processes} processes"),
            ("time of the run", f"{self.hours:.3g} h", f"{self.steps} steps; data and previews not counted"),
        ]
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {note}".rstrip() for a, b, note in rows)


def micro_batch(batch: int, processes: int, accumulate: int) -> int:
    """Items that one process has at once."""
    return -(-batch // (processes * accumulate))


def estimate(
    module: nn.Module,
    example: Example,
    *,
    batch: int,
    steps: int,
    mixed_precision: str = "no",
    ema: bool = False,
    processes: int = 1,
    accumulate: int = 1,
    speed: float | None = None,
) -> Estimate:
    """Estimate a training with AdamW. The module is left as it is.

    Args:
        module: what a step runs: a batch -> a loss, or a mapping with "loss". What learns has `requires_grad`.
        example: makes a batch of one item on a device, of tensors [1, ...] and lists.
        batch: items per step, over all processes.
        steps: of the whole run.
        mixed_precision: "no", "bf16" or "fp16", as accelerate calls them.
        ema: whether a running average of the weights is kept.
        processes: that share a batch.
        accumulate: micro-batches that each process makes of its share, one after the other.
        speed: operations per second; measured here where it is None.

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
    share = micro_batch(batch, processes, accumulate)
    saved, flops = measure_step(module, example, share, device, dtype)
    learned = _size(learning)
    return Estimate(
        parts=_parts(module),
        weights=_size([*module.parameters(), *module.buffers()]),
        # DistributedDataParallel's buckets hold a second copy.
        gradients=learned * (2 if processes > 1 else 1),
        moments=2 * learned,
        average=learned if ema else 0,
        activations=saved,
        flops=flops * batch // share,
        steps=steps,
        batch=batch,
        processes=processes,
        accumulate=accumulate,
        precision=mixed_precision,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        speed=measure_speed(device, dtype) if speed is None else speed,
    )


def measure_step(
    module: nn.Module, example: Example, items: int, device: torch.device, dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes kept for the backward pass, and operations forward and backward, of one step with so many items.

    A module that looks at its numbers runs one item for real, on the CPU, and counts that as often as there are items.

    Args:
        dtype: of autocast; float32 is without.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    fakes = logging.getLogger("torch._subclasses.fake_tensor")
    level = fakes.level
    try:
        fakes.setLevel(logging.CRITICAL)  # what it cannot run is no error here
        # Tensors made of numpy arrays, or kept outside of the module, come in as real ones.
        with FakeTensorMode(allow_non_fake_inputs=True):
            empty: dict[int, Any] = {
                id(parameter): nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
                for parameter in module.parameters()
            }
            empty |= {id(buffer): torch.empty_like(buffer, device=device) for buffer in module.buffers()}
            # A deep copy takes what its memo holds: the module's structure is copied, its tensors are not.
            twin = copy.deepcopy(module, empty)
            one = example(device)
            whole = {
                name: torch.cat([value] * items) if isinstance(value, Tensor) else value * items
                for name, value in one.items()
            }
            return _step(twin, whole, device, dtype)
    except (RuntimeError, TypeError) as error:
        log.info("The step cannot run without numbers (%s), so one item runs on the CPU.", str(error).split("\n")[0])
    finally:
        fakes.setLevel(level)
    with torch.random.fork_rng():
        saved, flops = _step(copy.deepcopy(module).cpu(), example(CPU), CPU, dtype)
    return saved * items, flops * items


def _step(module: nn.Module, batch: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes kept and operations of one step."""
    owned = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its place

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    counter = FlopCounterMode(display=False, custom_mapping={attention: _attention, back: _attention_back})
    module.train()
    with counter:
        with (
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            made = module(batch)
        (made["loss"] if isinstance(made, Mapping) else made).backward()
    return sum(s.nbytes() for i, s in kept.items() if i not in owned), int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """torch counts the attention kernels of GPUs but not the CPU's, which does the same products."""
    return int(sdpa_flop_count(query, key, value))


def _attention_back(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def measure_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product: the best of ten rounds."""
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
