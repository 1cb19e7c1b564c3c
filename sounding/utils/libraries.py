"""Imports of large libraries: a broken one is named, with its own message, and never mistaken for a damaged file."""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

_HIDING = threading.RLock()
# Packages of the project whose name is not that of what is imported.
_PACKAGES = {"PIL": "pillow", "open_clip": "open_clip_torch", "yaml": "pyyaml"}


class LibraryError(ImportError):
    """An installed library that cannot be used; the message names it and quotes its error."""


@contextmanager
def importing(library: str) -> Iterator[None]:
    """A block for the import statements of one library.

        with importing("diffusers"):
            from diffusers import AutoencoderKL

    transformers imports torchaudio wherever it is installed, and so do many classes of transformers and diffusers,
    though nothing here needs it. Builds of torchaudio lag behind torch's, so one that does not fit the installed torch
    is common: it is hidden while these statements run.

    Raises:
        LibraryError: for any error inside, since lazy modules raise different kinds in different libraries.
    """
    try:
        with _without_broken_torchaudio(library), _on_the_cpu(), uncollected():
            yield
    except LibraryError:
        raise
    except Exception as error:
        raise library_error(library, error) from error


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector, if it is on, for imports and for building models.

    These make some hundred thousand objects, all of which stay, and the collector would look through them again and
    again: a sixth of the time that large libraries take to import.
    """
    _PAUSE.enter()
    try:
        yield
    finally:
        _PAUSE.leave()


class _Pause:
    """Of the garbage collector, as long as any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._was_on = threading.Lock(), 0, False

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._was_on:
                gc.enable()


_PAUSE = _Pause()


def library_error(library: str, error: BaseException) -> LibraryError:
    """The error for a library that cannot be used, by the first error in the chain of `error`."""
    bottom = _bottom(error)
    said = " ".join(str(bottom).split())[:500] or type(bottom).__name__
    culprit = _culprit(bottom)
    if isinstance(bottom, ModuleNotFoundError) and bottom.name and bottom.name == culprit:  # no module within
        package = _PACKAGES.get(bottom.name, bottom.name)
        needed = "" if culprit == library else f", which {library} needs,"
        return LibraryError(
            f"The package {package}{needed} is not installed here ({said}); install it, such as by pip install "
            f"{package}, and run this again."
        )
    inside = f", because of {culprit}" if culprit not in (None, library) else ""
    return LibraryError(
        f"{library} cannot be imported here{inside} ({type(bottom).__name__}: {said}); the installed packages "
        "are at fault and no file: update or reinstall what is named, or remove it where nothing needs it."
    )


def missing_library(error: BaseException) -> ImportError | None:
    """The import error in the chain of `error`, or None; lazy modules raise other errors on top of it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ImportError):
            return link
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return None


def _bottom(error: BaseException) -> BaseException:
    """The first error in a chain."""
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
    # A package built for another torch fails inside torch.
    return next((name for name in packages if name != "torch"), packages[0] if packages else None)


def _on_the_cpu() -> AbstractContextManager[Any]:
    """Libraries compute tables on import, which would fail while a model is being built on the meta device."""
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
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # makes Python's import raise ModuleNotFoundError
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
    """Clear what transformers remembers about installed packages."""
    found: Any = sys.modules.get("transformers.utils.import_utils")
    for name in ("is_torchaudio_available", "_is_package_available"):
        clear = getattr(getattr(found, name, None), "cache_clear", None)
        if clear is not None:
            clear()
