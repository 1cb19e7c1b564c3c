"""Imports of large libraries: one that is broken is named, with what it said, and never taken for a fault of a file."""

from __future__ import annotations

import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

_HIDING = threading.RLock()


class LibraryError(ImportError):
    """An installed library that cannot be used; the message names it and what it said."""


@contextmanager
def importing(library: str) -> Iterator[None]:
    """Import statements of one library stand in here.

        with importing("diffusers"):
            from diffusers import AutoencoderKL

    transformers imports torchaudio wherever it is installed, though nothing here needs it, and many of transformers'
    and diffusers' classes with it. torchaudio's builds follow torch's only later, so that one which does not fit torch
    is common: it is taken for missing while these statements run.

    Raises:
        LibraryError: any error inside, whatever its kind: what lazy modules raise differs from library to library.
    """
    try:
        with _without_broken_torchaudio(library), _on_the_cpu():
            yield
    except LibraryError:
        raise
    except Exception as error:
        raise library_error(library, error) from error


def library_error(library: str, error: BaseException) -> LibraryError:
    """The sentence for a library that cannot be used, after the error at the bottom of `error`."""
    bottom = _bottom(error)
    said = " ".join(str(bottom).split())[:500] or type(bottom).__name__
    culprit = _culprit(bottom)
    inside = f", because of {culprit}" if culprit not in (None, library) else ""
    return LibraryError(
        f"{library} cannot be imported here{inside} ({type(bottom).__name__}: {said}); the installed packages "
        "are at fault and no file: update or reinstall what is named, or remove it where nothing needs it."
    )


def missing_library(error: BaseException) -> ImportError | None:
    """The import error that `error` came from, or None if none did: lazy modules raise other kinds over it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ImportError):
            return link
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return None


def _bottom(error: BaseException) -> BaseException:
    """Where a chain of errors began."""
    seen = {id(error)}
    while (below := error.__cause__ or error.__context__) is not None and id(below) not in seen:
        seen.add(id(below))
        error = below
    return error


def _culprit(error: BaseException) -> str | None:
    """The installed package whose code raised `error`."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    packages = []
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        packages += [Path(parts[i + 1]).stem for i, part in enumerate(parts[:-1]) if part.endswith("-packages")]
    # What was built for another torch fails inside of torch.
    return next((name for name in packages if name != "torch"), packages[0] if packages else None)


def _on_the_cpu() -> AbstractContextManager[Any]:
    """Libraries compute tables while they are imported, which fails where a model is being sketched on "meta"."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.device("cpu")


@contextmanager
def _without_broken_torchaudio(library: str) -> Iterator[None]:
    """Hide a torchaudio that cannot be imported, for as long as this lasts, from libraries that would import it."""
    with _HIDING:
        if library not in ("transformers", "diffusers") or not _torchaudio_is_broken():
            yield
            return
        _forget_torchaudio()
        before = sys.modules.get("torchaudio", ...)
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # Python's way to say: there is no such module
        try:
            yield
        finally:
            if before is ...:
                sys.modules.pop("torchaudio", None)
            _forget_torchaudio()


def _torchaudio_is_broken() -> bool:
    """Whether torchaudio is installed and cannot be imported; transformers imports a sound one anyway."""
    if "torchaudio" in sys.modules:
        return sys.modules["torchaudio"] is None
    if importlib.util.find_spec("torchaudio") is None:
        return False
    try:
        importlib.import_module("torchaudio")
    except Exception:
        return True
    return False


def _forget_torchaudio() -> None:
    """transformers remembers which packages it found."""
    found: Any = sys.modules.get("transformers.utils.import_utils")
    for name in ("is_torchaudio_available", "_is_package_available"):
        clear = getattr(getattr(found, name, None), "cache_clear", None)
        if clear is not None:
            clear()
