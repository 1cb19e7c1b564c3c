"""Files of weights to named tensors; nothing in a file is ever executed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import MOST_NAME, MOST_TENSORS, check_header_size
from ..utils.fields import parse_json
from ..utils.messages import printable
from . import WeightsError
from .pytorch import check_tensors, load_pytorch

# Keys under which trainers wrap the weights.
WRAPPERS = ("state_dict", "generator", "model", "module")
MOST_JSON = 16 * 2**20  # bytes of a publisher's configuration
MEND = "get the file again from its publisher, or convert it to .safetensors where you trust it"


@contextmanager
def laid_out(path: Path) -> Iterator[None]:
    """Turn what goes wrong with configurations and tensors of unexpected layout into one sentence.

    Raises:
        WeightsError: from any error of that kind inside.
    """
    try:
        yield
    except WeightsError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = printable(" ".join(str(error).split()), 200)
        raise WeightsError(
            f"{path} is not laid out as its publisher's weights are ({type(error).__name__}: {said}); give a supported "
            "model (docs/models.md), complete and unedited."
        ) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors, or of a .bin, .pt, .pth or .ckpt of PyTorch in any of its formats.

    Raises:
        WeightsError: not such a file, damaged, or holding more than weights.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file, but a file of weights is expected; check the path.")
    try:
        safe = path.suffix.lower() == ".safetensors" or not _pickled(path)
        state = _read_safetensors(path) if safe else _read_pickled(path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror or error}); check the disk and permissions."
        ) from None
    if not state:
        raise WeightsError(f"{path} has no tensors, but weights are expected; {MEND}.")
    if all(name.startswith("module.") for name in state):  # saved by a data-parallel trainer
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _pickled(path: Path) -> bool:
    """Whether it begins as PyTorch's files do (zip, tar or pickle); a safetensors begins with a length."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[:2] == b"PK" or start[:1] == b"\x80" or start[8:] != b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        check_header_size(path)
        state = dict(load_file(path))
        if len(state) > MOST_TENSORS or not all(map(_is_name, state)):
            raise ValueError(f"names of at most {MOST_NAME} letters, and {MOST_TENSORS} of them, are expected")
        return state
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        said = printable(" ".join(str(error).split()), 200)
        raise WeightsError(f"{path} is not a readable .safetensors file ({said}); {MEND}.") from None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a .safetensors, without reading them.

    Raises:
        WeightsError: not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        said = printable(" ".join(str(error).split()), 200)
        raise WeightsError(f"{path} is not a readable .safetensors file ({said}); {MEND}.") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        return check_tensors(_unwrap(load_pytorch(path)), path.stat().st_size)
    except WeightsError as error:
        said = "".join(letter if letter.isprintable() else "?" for letter in str(error))  # names out of the file
        raise WeightsError(f"{path} {said}, so it was not opened; {MEND}.") from None


def _unwrap(data: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of what trainers wrap around them."""
    for _ in range(len(WRAPPERS)):
        inner = next(
            (data[key] for key in WRAPPERS if isinstance(data, dict) and isinstance(data.get(key), dict)), None
        )
        if inner is None:
            break
        data = inner
    if not isinstance(data, dict):
        raise WeightsError("holds no dictionary of weights")
    named = {str(name): value for name, value in data.items() if isinstance(name, (str, int))}
    return {name: value for name, value in named.items() if isinstance(value, Tensor) and _is_name(name)}


def _is_name(name: str) -> bool:
    return len(name) <= MOST_NAME and name.isprintable()


def read_folder(folder: Path, stem: str) -> dict[str, Tensor]:
    """Tensors of `stem`.safetensors or .bin in a folder, half-precision variants last.

    Raises:
        WeightsError: none is there; or see `read_state`.
    """
    for suffix in (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return read_state(path)
    raise WeightsError(
        f"{folder} has neither {stem}.safetensors nor {stem}.bin; give the whole folder as its publisher has it."
    )


def read_transformers(folder: Path) -> dict[str, Tensor]:
    """Tensors of a transformers folder, under its new name or its old one; see `read_folder`."""
    return read_folder(folder, "model" if (folder / "model.safetensors").is_file() else "pytorch_model")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        WeightsError: not there or not a JSON object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_JSON + 1).decode()
        data = parse_json(text, most=MOST_JSON)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path} cannot be read as JSON ({said}); give the whole folder as published.") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is a {type(data).__name__}, but a JSON object is expected; get it again.")
    return data


def under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers follow `pattern` in names: `count(state, "layers.")` counts layers."""
    found = {name.removeprefix(pattern).split(".")[0] for name in names if name.startswith(pattern)}
    return len([number for number in found if number.isdigit()])


def expect(state: dict[str, Tensor], name: str, path: Path, kind: str) -> Tensor:
    """A tensor that must be there.

    Raises:
        WeightsError: it is not, with what kind of weights was expected.
    """
    if name not in state:
        first = ", ".join(sorted(state)[:3])
        raise WeightsError(f"{path} has no {name!r} (it has {first} ...), but {kind} is expected; check the file.")
    return state[name]
