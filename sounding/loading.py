"""Modules made for a checkpoint: built without memory for their weights, checked against its tensors, filled part by
part. Loading is strict: a missing, foreign or ill-shaped tensor is an error that names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, Header, read_header, read_tensors, resolve, write
from .config import NAMING, SoundingConfig
from .cost import blocks
from .networks.codec import part_dtype
from .networks.meta import PrivateGenerator, fitted, meta_parameters
from .utils.libraries import library_error, missing_library, uncollected
from .utils.threads import adaptive_spinning

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=nn.Module)


def build(header: Header, make: Callable[[], M], parts: Collection[str] | None = None) -> M:
    """The module that `make` makes for a checkpoint, its parameters on the meta device until `read_parts` fills them.

    Args:
        header: of the checkpoint.
        make: the constructor; the module's children have the names of the parts.
        parts: that the module consists of, by default all that the file has.

    Raises:
        CheckpointError: a module that cannot be built, or one that the file's tensors do not belong to.
    """
    shapes = {name: shape for name, shape in header.shapes.items() if parts is None or name.partition(".")[0] in parts}
    described = sum(
        count
        for part, count in blocks(header.config).items()
        if part in header.parts and (parts is None or part in parts)
    )
    if described > len(shapes):  # each block has weights; building thousands that are not there takes long
        raise CheckpointError(
            f"{header.path} describes {described} layers, but has only {len(shapes)} tensors; the configuration is "
            "damaged or edited, export the file again."
        )
    try:
        # On the meta device, so that sizes that the file does not confirm cost nothing.
        with torch.device("meta"), PrivateGenerator(), uncollected():
            skeleton = make().state_dict()
    except (ValueError, RuntimeError, TypeError, ArithmeticError, AssertionError, LookupError) as error:
        if (missing := missing_library(error)) is not None:
            raise library_error(missing.name or "A library", error) from error
        raise CheckpointError(
            f"{header.path}: the model that its configuration describes cannot be built ({error}); the configuration "
            "is damaged or edited, export the file again."
        ) from None
    _check_tensors(header, shapes, {name: tuple(value.shape) for name, value in skeleton.items()})
    with meta_parameters(), PrivateGenerator(), uncollected():
        return make().requires_grad_(False)


def read_parts(
    module: nn.Module, header: Header, parts: Iterable[str], *, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Read the weights of some parts of a module from `build`, each straight to where it is used.

    Weights that keep the file's precision and stay on the CPU are memory-mapped, copy on write: changes to them never
    reach the file, and the file must not be overwritten in place meanwhile (`write` replaces it by a new one).
    Otherwise no more than one part's share of the file is in memory beside the result.

    Args:
        module: whose children have the names of the parts.
        header: of the checkpoint.
        parts: which to read.
        dtype: of the weights in memory; see `networks.codec.part_dtype` for the exceptions.
        device: where the weights go.

    Raises:
        CheckpointError: the file was changed after `header`, is damaged, or has weights that are not finite numbers.
        ValueError: an unknown part.
    """
    for part in parts:
        with adaptive_spinning("cpu"):
            _read_part(module, header, part, dtype, device)


def _read_part(module: nn.Module, header: Header, part: str, dtype: torch.dtype, device: torch.device | str) -> None:
    """See `read_parts`."""
    if part not in header.parts:
        raise ValueError(f"parts has {part!r}, but the file has {', '.join(header.parts)}; name some of these.")
    child, child_dtype = module.get_submodule(part), part_dtype(part, dtype)
    expected = child.state_dict()
    tensors = read_tensors(header, [f"{part}.{name}" for name in expected])
    weights = {}
    for name, like in expected.items():
        try:
            weights[name] = fitted(tensors.pop(f"{part}.{name}"), like, child_dtype).to(device)
        except ValueError as error:
            raise CheckpointError(f"{header.path}: '{part}.{name}' {error}.") from None
    child.load_state_dict(weights, assign=True)
    nn.Module.to(child, device=device, dtype=child_dtype)  # buffers that are not in the file
    child.requires_grad_(False)


def _check_tensors(
    header: Header, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare names and shapes; a part that is missing as a whole is named as such."""
    missing = sorted(expected.keys() - found.keys())
    foreign = sorted(found.keys() - expected.keys())
    absent = sorted({name.partition(".")[0] for name in missing} - set(header.parts))
    if set(header.parts) == {"patches", NAMING} and absent:
        raise CheckpointError(
            f"{header.path} only names objects, but a model that makes sounds is expected; give one, such as 'starter'."
        )
    if absent:
        where = "; ".join(f"{part}: {header.config.absent.get(part, 'export it with its weights')}" for part in absent)
        raise CheckpointError(f"{header.path} has no weights for {', '.join(absent)}, but they are needed ({where}).")
    if missing:
        raise CheckpointError(
            f"{header.path} lacks {len(missing)} tensors, the first is {missing[0]!r}; the file is not complete, "
            "export it again."
        )
    if foreign:
        raise CheckpointError(
            f"{header.path} has {len(foreign)} tensors that its configuration does not know, the first is "
            f"{foreign[0]!r}; it was made for another version or edited, export it again."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{header.path}: {name!r} has shape {found[name]}, but {shape} is expected; weights and "
                "configuration do not belong together."
            )


class Pretrained(nn.Module):
    """A model that one checkpoint holds whole: built from its configuration alone, loaded and saved.

    Parts in `late` are None until they are needed, because building them imports libraries that not every job needs.
    """

    late: ClassVar[Mapping[str, Callable[[SoundingConfig], nn.Module]]] = {}  # how each is built

    def __init__(self, config: SoundingConfig, without: Collection[str] = ()):
        """Build the model.

        Args:
            config: of all parts.
            without: those of `late` that a subclass is not to build.
        """
        super().__init__()
        self.config = config

    @classmethod
    def from_header(cls, header: Header, parts: Collection[str] | None = None) -> Self:
        """The model that a checkpoint describes, with every part still on disk; `read_parts` reads them.

        Args:
            header: of the checkpoint.
            parts: that will be used, by default all; those of `late` that are not among them are not built, and their
                tensors are checked in `build_late`.

        Raises:
            CheckpointError: see `build`.
        """
        without = [] if parts is None else [part for part in cls.late if part in header.parts and part not in parts]
        return build(header, lambda: cls(header.config, without), set(header.parts) - set(without))

    def build_late(self, header: Header, part: str) -> None:
        """Build a part that `from_header` left out, if it did; `read_parts` reads its weights.

        Raises:
            CheckpointError: see `build`.
        """
        if part in self.late and getattr(self, part) is None:
            made = build(header, lambda: nn.ModuleDict({part: self.late[part](self.config)}).eval(), (part,))
            self.register_module(part, made[part])

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        parts: Iterable[str] | None = None,
    ) -> Self:
        """Build the model that a checkpoint describes and read its weights.

        Args:
            model: "starter" or the path of a .safetensors file.
            device: where the weights go.
            dtype: of the weights in memory, whatever the file holds; VAE and vocoder take float32 for bfloat16.
            parts: which to read, by default all that the file has; the others stay on disk, see `require`.

        Raises:
            CheckpointError: see `checkpoint.read_header`; or a tensor is missing, foreign, of another shape or kind, or
                not finite.
        """
        header = read_header(resolve(model))
        wanted = header.parts if parts is None else tuple(parts)
        loaded = cls.from_header(header, wanted)
        read_parts(loaded, header, wanted, dtype=dtype, device=device)
        return loaded

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float16,
        title: str | None = None,
        description: str = "",
        licence: str = "",
        record: Mapping[str, str] | None = None,
    ) -> None:
        """Write a checkpoint in one step: a crash leaves the old file as it was.

        Args:
            path: the .safetensors file.
            dtype: of floating-point weights in the file.
            title, description, licence: for the `modelspec.*` fields that ComfyUI users' tools show.
            record: more entries for the header, such as how it was trained.

        Raises:
            CheckpointError: a weight that is not finite in `dtype`.
            FullDiskError: no room.
            ValueError: the model was loaded without a part of `late`.
        """
        for part in self.late:
            self.require(part)
        write(
            path,
            self.state_dict(),
            self.config,
            dtype=dtype,
            title=title,
            description=description,
            licence=licence,
            record=record,
        )

    def require(self, part: str) -> Tensor:
        """A weight of a part that is about to be used, for its device and precision.

        Raises:
            ValueError: the part was not read from its checkpoint.
        """
        module = getattr(self, part)
        weight = None if module is None else next(module.parameters())
        if weight is None or weight.is_meta:
            raise ValueError(
                f"The model was loaded without {part!r}, but this needs it; load it with {part!r} among its parts."
            )
        return cast(Tensor, weight)
