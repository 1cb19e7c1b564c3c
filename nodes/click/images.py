"""Pictures by reference: a name in one of the host's folders, and its pixels."""

from __future__ import annotations

import functools
import os
from pathlib import Path, PurePosixPath

import folder_paths
import torch
from torch import Tensor

from ...sounding.images.decoding import FORMATS, read_pixels

KINDS = ("input", "output", "temp")


class PictureError(ValueError):
    """A reference that leads nowhere, or to something that is not a picture."""


def picture_names() -> list[str]:
    """Pictures directly in the host's input folder, of the formats that are read."""
    folder = Path(folder_paths.get_input_directory())
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return sorted(entry.name for entry in entries if _is_offered(entry))


def _is_offered(entry: os.DirEntry[str]) -> bool:
    """Whether a file would be read under its name."""
    name = entry.name
    if os.path.splitext(name)[1].lower() not in _endings() or "\\" in name or _refused(name):
        return False
    try:
        if entry.is_symlink():
            return annotated_path(entry.name).is_file()
        return entry.is_file() and not any(entry.name.endswith(f"[{kind}]") for kind in KINDS)
    except (PictureError, OSError):
        return False


def annotated_path(name: str) -> Path:
    """The path of a name as dropdowns keep it: inside the input folder, or `name [output]`, `name [temp]`.

    Raises:
        PictureError: see `picture_path`.
    """
    if not isinstance(name, str):
        raise PictureError(f"picture is {str(name)[:60]!r}, but the name of a file is expected; choose one.")
    kind = next((kind for kind in KINDS if name.endswith(f"[{kind}]")), None)
    return picture_path(name if kind is None else name[: -len(kind) - 2].rstrip(), "", kind or "input")


def picture_path(name: str, subfolder: str = "", kind: str = "input") -> Path:
    """The path of a picture, inside of the host's folder of that kind and nowhere else.

    Args:
        name: file name; may hold folders.
        subfolder: folder below the host's, or empty.
        kind: "input", "output" or "temp".

    Raises:
        PictureError: another kind, a path out of the folder (absolute, with .., through a link), or no such file.
    """
    if kind not in KINDS:
        raise PictureError(
            f"The picture's type is {kind[:60]!r}, but one of {', '.join(KINDS)} is expected; choose one."
        )
    shown = f"{subfolder}/{name}"[-200:].lstrip("/") if subfolder else name[-200:]
    relative = PurePosixPath(subfolder.replace("\\", "/")) / name.replace("\\", "/")
    outside = relative.is_absolute() or ".." in relative.parts or _refused(name) or _refused(subfolder)
    folder = Path(folder_paths.get_directory_by_type(kind)).resolve()
    refusal = (
        f"The picture is {shown!r}, but the name of a file inside the {kind} folder is expected; choose one from the "
        "list, or upload it."
    )
    if outside or not name.strip():
        raise PictureError(refusal)
    try:
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder):
            raise PictureError(refusal)
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name longer than the file system takes, a loop of links
        said = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise PictureError(
            f"The picture {shown!r} cannot be found ({said}), but it should be; choose another."
        ) from None
    raise PictureError(
        f"There is no picture {shown!r} inside the {kind} folder; choose one from the list, or upload it."
    )


def _refused(name: str) -> bool:
    """Whether a name has what names of files do not: control characters, halves of letters, on Windows a drive."""
    return not name.isprintable() or (os.name == "nt" and ":" in name)


def read_picture(path: Path) -> Tensor:
    """The first frame of a picture file, turned as its EXIF says, without transparency: [1, H, W, 3] float 0..1.

    Raises:
        PictureError: not a readable picture, or one with too many pixels.
    """
    try:
        return torch.from_numpy(read_pixels(path, white_behind=False))[None]
    except ValueError as error:
        raise PictureError(str(error).replace(str(path), path.name)) from error


@functools.cache
def _endings() -> frozenset[str]:
    """Endings of files of the formats that are read."""
    from PIL import Image

    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
