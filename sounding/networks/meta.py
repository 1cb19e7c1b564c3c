"""Modules without memory for their weights, and single weights made to fit: what loading a checkpoint is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Modules built inside have parameters on the meta device, which take no memory, and real buffers.

    `torch.device("meta")` would empty the buffers too (positions, filters), and not all of them are in a checkpoint.
    What other threads build meanwhile is left alone.
    """
    thread = threading.get_ident()

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    # Layers register a parameter before they fill it, so that the memory it had was never touched.
    with register_module_parameter_registration_hook(cast(Any, emptied)):  # its type leaves out the result
        yield


# What draws, of torch and of `torch.nn.init`; the names are those of functions as modes see them.
DRAWING = {
    "bernoulli", "bernoulli_", "exponential_", "kaiming_uniform_", "multinomial", "normal", "normal_", "rand",
    "randint", "randn", "random_", "randperm", "uniform_",
}  # fmt: skip


class PrivateGenerator(TorchFunctionMode):
    """What this thread draws inside comes from a generator of its own: nobody else's random numbers move on.

    Building a module draws its first weights, also where a file's take their place at once. The numbers are those
    that `torch.manual_seed(seed)` would give.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the generator to everything on the CPU that draws."""
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in DRAWING and kwargs.get("generator") is None:
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if not any(each.is_meta for each in tensors) and str(kwargs.get("device")) != "meta":
                kwargs["generator"] = self.generator
        return func(*args, **kwargs)


def fitted(value: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight out of a file for the place of `expected`: in `dtype` if it is a floating-point one.

    Raises:
        ValueError: of another kind, or not finite; completes "the weight ...".
    """
    if not expected.is_floating_point():
        if value.dtype != expected.dtype:
            raise ValueError(f"has {value.dtype}, but {expected.dtype} is expected; export the file again")
        return value.clone()  # so that a few whole numbers do not hold on to a whole file
    if not value.is_floating_point():
        raise ValueError(f"has {value.dtype}, but floating-point numbers are expected; export the file again")
    cast = value.to(dtype)
    if not finite(cast):
        if finite(value.to(torch.float64)):
            raise ValueError(f"is not finite as {dtype}; load it as torch.float32")
        raise ValueError("is not finite; the file is damaged, export it again")
    return cast


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite; the extremes say it without a tensor of answers as large as the weights."""
    return value.numel() == 0 or value.is_meta or all(bool(torch.isfinite(end)) for end in torch.aminmax(value))


def filled(make: Callable[[], M], weights: dict[str, Tensor]) -> M:
    """The module that `make` makes, with a file's float32 weights in it.

    It is sketched on the meta device first: sizes that the file only claims to have take no memory.

    Raises:
        ValueError: names or shapes are not the module's, or numbers are not finite.
    """
    with torch.device("meta"):
        sketch = make().state_dict()
    if names := sketch.keys() ^ weights.keys():
        raise ValueError(f"{len(names)} tensors are missing or unknown, the first is {min(names)[:80]!r}")
    for name, expected in sketch.items():
        if weights[name].shape != expected.shape:
            raise ValueError(
                f"{name!r} has shape {tuple(weights[name].shape)}, but {tuple(expected.shape)} is expected"
            )
    with meta_parameters(), PrivateGenerator():
        module = make()
    module.load_state_dict({name: fitted(weights[name], sketch[name], torch.float32) for name in sketch}, assign=True)
    return module
