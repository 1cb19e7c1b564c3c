"""Meta-device initialisation: modules built without memory for their parameters, to be filled with checked weights."""

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
    """Modules built inside have their parameters on the meta device, where they take no memory, and real buffers.

    `torch.device("meta")` would put buffers (positions, filters) there too, and not all of them are in a checkpoint.
    Modules that other threads build meanwhile are not affected.
    """
    thread = threading.get_ident()

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    # Layers register a parameter before they fill it, so its memory is never touched.
    with register_module_parameter_registration_hook(cast(Any, emptied)):  # its type leaves out the result
        yield


# Functions of torch and `torch.nn.init` that draw random numbers, by the names that modes see.
DRAWING = {
    "bernoulli", "bernoulli_", "exponential_", "kaiming_uniform_", "multinomial", "normal", "normal_", "rand",
    "randint", "randn", "random_", "randperm", "uniform_",
}  # fmt: skip


class PrivateGenerator(TorchFunctionMode):
    """Random numbers drawn inside, in this thread, come from a private generator; the global one does not advance.

    Building a module draws initial weights even where a file's weights replace them at once. The numbers are those
    that `torch.manual_seed(seed)` would give. On the meta device, where there are no numbers, nothing is drawn.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass the generator to every function on the CPU that draws, and leave tensors on the meta device alone."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in DRAWING and kwargs.get("generator") is None:
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            device = kwargs.get("device") or (tensors[0].device if tensors else torch.get_default_device())
            if torch.device(device).type != "meta":
                kwargs["generator"] = self.generator
            elif name.endswith("_"):
                return tensors[0]
        return func(*args, **kwargs)


def fitted(value: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """A file's weight as a replacement of `expected`: in `dtype` if it is a floating-point one.

    Raises:
        ValueError: of another kind, or not finite; completes "the weight ...".
    """
    if not expected.is_floating_point():
        if value.dtype != expected.dtype:
            raise ValueError(f"has {value.dtype}, but {expected.dtype} is expected; export the file again")
        return value.clone()  # so that a few integers do not keep a whole file mapped
    if not value.is_floating_point():
        raise ValueError(f"has {value.dtype}, but floating-point numbers are expected; export the file again")
    cast = value.to(dtype)
    if not finite(cast):
        if finite(value.to(torch.float64)):
            raise ValueError(f"is not finite as {dtype}; load it as torch.float32")
        raise ValueError("is not finite; the file is damaged, export it again")
    return cast


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite, judged by the extremes: no boolean tensor as large as the weights is needed."""
    return value.numel() == 0 or value.is_meta or all(bool(torch.isfinite(end)) for end in torch.aminmax(value))


def filled(make: Callable[[], M], weights: dict[str, Tensor]) -> M:
    """The module that `make` makes, with a file's float32 weights in it.

    It is built on the meta device first, so sizes that a configuration only claims take no memory.

    Raises:
        ValueError: names or shapes are not the module's, or numbers are not finite.
    """
    with torch.device("meta"), PrivateGenerator():
        skeleton = make().state_dict()
    if names := skeleton.keys() ^ weights.keys():
        raise ValueError(f"{len(names)} tensors are missing or unknown, the first is {min(names)[:80]!r}")
    for name, expected in skeleton.items():
        if weights[name].shape != expected.shape:
            raise ValueError(
                f"{name!r} has shape {tuple(weights[name].shape)}, but {tuple(expected.shape)} is expected"
            )
    with meta_parameters(), PrivateGenerator():
        module = make()
    module.load_state_dict(
        {name: fitted(weights[name], skeleton[name], torch.float32) for name in skeleton}, assign=True
    )
    return module
