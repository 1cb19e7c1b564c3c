"""Image files by reference: a name in one of the host's folders, and its pixels."""

from __future__ import annotations

import functools
import os
from pathlib import Path, PurePosixPath

import folder_paths
import torch
from torch import Tensor

from ...sounding.images.decoding import read_pixels
from ...sounding.images.opening import FORMATS

KINDS = ("input", "output", "temp")


class ImageFileError(ValueError):
    """A reference to nothing, or to a file that is not an image."""


def image_names() -> list[str]:
    """The image files directly in the host's input folder, of the formats that can be read."""
    folder = Path(folder_paths.get_input_directory())
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return sorted(entry.name for entry in entries if _is_offered(entry))


def _is_offered(entry: os.DirEntry[str]) -> bool:
    """Whether a file could be read under its name."""
    name = entry.name
    if os.path.splitext(name)[1].lower() not in _endings() or "\\" in name or _refused(name):
        return False
    try:
        if entry.is_symlink():
            return annotated_path(entry.name).is_file()
        return entry.is_file() and not any(entry.name.endswith(f"[{kind}]") for kind in KINDS)
    except (ImageFileError, OSError):
        return False


def annotated_path(name: str) -> Path:
    """The path of a name as dropdowns keep it: inside the input folder, or `name [output]`, `name [temp]`.

    Raises:
        ImageFileError: see `image_path`.
    """
    if not isinstance(name, str):
        raise ImageFileError(f"picture is {str(name)[:60]!r}, but the name of a file is expected; choose one.")
    kind = next((kind for kind in KINDS if name.endswith(f"[{kind}]")), None)
    return image_path(name if kind is None else name[: -len(kind) - 2].rstrip(), "", kind or "input")


def image_path(name: str, subfolder: str = "", kind: str = "input") -> Path:
    """The path of an image file, inside the host's folder of that kind and nowhere else.

    Args:
        name: file name; may hold folders.
        subfolder: folder below the host's, or empty.
        kind: "input", "output" or "temp".

    Raises:
        ImageFileError: another kind, a path that leaves the folder (absolute, by .. or a link), or no such file.
    """
    if kind not in KINDS:
        raise ImageFileError(
            f"The image's type is {kind[:60]!r}, but one of {', '.join(KINDS)} is expected; choose one."
        )
    shown = f"{subfolder}/{name}"[-200:].lstrip("/") if subfolder else name[-200:]
    relative = PurePosixPath(subfolder.replace("\\", "/")) / name.replace("\\", "/")
    outside = relative.is_absolute() or ".." in relative.parts or _refused(name) or _refused(subfolder)
    folder = Path(folder_paths.get_directory_by_type(kind)).resolve()
    refusal = (
        f"The image is {shown!r}, but the name of a file inside the {kind} folder is expected; choose one from the "
        "list, or upload it."
    )
    if outside or not name.strip():
        raise ImageFileError(refusal)
    try:
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder):
            raise ImageFileError(refusal)
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name longer than the file system takes, a loop of links
        said = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise ImageFileError(
            f"The image {shown!r} cannot be found ({said}), but it should be; choose another."
        ) from None
    raise ImageFileError(
        f"There is no image {shown!r} inside the {kind} folder; choose one from the list, or upload it."
    )


def _refused(name: str) -> bool:
    """Whether a name has what file names never have: control characters, lone surrogates, on Windows a drive."""
    return not name.isprintable() or (os.name == "nt" and ":" in name)


def read_image(path: Path) -> Tensor:
    """The first frame of an image file, oriented as its EXIF says, without transparency: [1, H, W, 3] float 0..1.

    Raises:
        ImageFileError: not a readable image, or one with too many pixels.
    """
    try:
        return torch.from_numpy(read_pixels(path, white_behind=False))[None]
    except ValueError as error:
        raise ImageFileError(str(error).replace(str(path), path.name)) from error


@functools.cache
def _endings() -> frozenset[str]:
    """File name extensions of the formats that can be read."""
    from PIL import Image

    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
