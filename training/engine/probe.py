"""One training step of one item, watched: what autograd keeps, and how many operations there are.

The step runs with torch's fake tensors (meta tensors that know which device they would be on): no numbers and no
memory, but the shapes, types and casts of mixed precision that the device would have. A module that looks at its
numbers, or leaves torch on the way, runs for real on the CPU instead.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

log = logging.getLogger("training")

Example = Callable[[torch.device], Any]


@dataclass(frozen=True)
class Probe:
    """What one item's step showed, forward and backward."""

    saved: int  # bytes kept for the backward pass that depend on the item
    copies: int  # bytes kept that are made of weights alone, such as weights cast to half precision
    flops: int  # operations of matrix products and convolutions, a multiply-add is two
    by: str


def probe_step(module: nn.Module, example: Example, device: torch.device, dtype: torch.dtype) -> Probe:
    """Run one item's step as it would run on `device` under autocast to `dtype` (float32: without).

    Args and errors: see `training.engine.estimate.estimate`. The module is left as it is.
    """
    try:
        return _fake_step(module, example, device, dtype)
    except (RuntimeError, TypeError) as error:
        log.info("The step cannot run without numbers (%s), so one item runs on the CPU.", str(error).split("\n")[0])
        return _real_step(module, example, dtype)


def _fake_step(module: nn.Module, example: Example, device: torch.device, dtype: torch.dtype) -> Probe:
    """`_step` without numbers, as it would be on `device`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Tensors made of numpy arrays, or kept outside of the module, come in as real ones.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        empty: dict[int, Any] = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
            for parameter in module.parameters()
        }
        empty |= {id(buffer): torch.empty_like(buffer, device=device) for buffer in module.buffers()}
        # A deep copy takes what its memo holds: the module's structure is copied, its tensors are not.
        twin = copy.deepcopy(module, empty)
        return _step(twin, example, device, dtype, "fake tensors")


def _real_step(module: nn.Module, example: Example, dtype: torch.dtype) -> Probe:
    with torch.random.fork_rng():
        return _step(copy.deepcopy(module).cpu(), example, torch.device("cpu"), dtype, "a real step")


def _step(module: nn.Module, example: Example, device: torch.device, dtype: torch.dtype, by: str) -> Probe:
    """One item forward and backward, watched."""
    module.train()
    owned = {id(storage): storage for storage in _storages([*module.parameters(), *module.buffers()])}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its id

    def keep(tensor: Tensor) -> Tensor:
        kept.update((id(storage), storage) for storage in _storages([tensor]))
        return tensor

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    known = {
        attention: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
    }
    counter = FlopCounterMode(display=False, custom_mapping=known)
    given = example(device)
    arguments = given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
    named = given if isinstance(given, dict) else {}
    with _FromWeights(owned) as weights, counter:
        with (
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            made = module(*arguments, **named)
        loss = sum(tensor.float().sum() for tensor in _learned(made))
        if not isinstance(loss, Tensor):
            raise ValueError("The module gave no tensor that depends on what learns; give its loss.")
        loss.backward()
    copies = sum(storage.nbytes() for i, storage in kept.items() if i in weights.seen and i not in owned)
    saved = sum(storage.nbytes() for i, storage in kept.items() if i not in weights.seen)
    return Probe(saved, copies, int(counter.get_total_flops()), by)


class _FromWeights(TorchDispatchMode):
    """Knows which storages are made of weights alone (casts, norms), which do not grow with the batch."""

    def __init__(self, weights: Mapping[int, torch.UntypedStorage]):
        super().__init__()
        self.seen = dict(weights)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        sources = _storages(_tensors((args, kwargs or {})))
        if sources and all(id(storage) in self.seen for storage in sources):
            self.seen.update((id(storage), storage) for storage in _storages(_tensors(made)))
        return made


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """torch counts the attention kernels of GPUs but not the CPU's, which does the same products."""
    return int(sdpa_flop_count(query, key, value))


def _attention_back(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _learned(made: Any) -> Iterator[Tensor]:
    """The tensors of a module's result that a loss is made of."""
    if isinstance(made, Mapping) and "loss" in made:
        made = made["loss"]
    return (tensor for tensor in _tensors(made) if tensor.requires_grad)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in nested containers and in objects of dataclass kind."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors([getattr(value, name) for name in value.__dataclass_fields__])


def _storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tensors]
