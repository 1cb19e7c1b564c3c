"""Pictures by reference: a name in one of the host's folders, and its pixels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import folder_paths
import torch
from torch import Tensor

from ..sounding.picture_files import read_pixels

KINDS = ("input", "output", "temp")


class PictureError(ValueError):
    """A reference that leads nowhere, or to something that is not a picture."""


def picture_names() -> list[str]:
    """Pictures directly in the host's input folder, as Load Image lists them."""
    folder = Path(folder_paths.get_input_directory())
    names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(names, ["image"]))


def annotated_path(name: str) -> Path:
    """The path of a name as dropdowns keep it: inside the input folder, or `name [output]`, `name [temp]`.

    Raises:
        PictureError: see `picture_path`.
    """
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
    outside = relative.is_absolute() or ".." in relative.parts or ":" in str(relative) or not shown.isprintable()
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
    except OSError as error:  # a name longer than the file system takes, a loop of links
        raise PictureError(f"The picture {shown!r} cannot be found ({error.strerror}); choose another one.") from error
    raise PictureError(f"There is no picture {shown!r} in the {kind} folder; choose one from the list, or upload it.")


def read_picture(path: Path) -> Tensor:
    """The first frame of a picture file, turned as its EXIF says, without transparency: [1, H, W, 3] float 0..1.

    Raises:
        PictureError: not a readable picture, or one with too many pixels.
    """
    try:
        return torch.from_numpy(read_pixels(path, white_behind=False))[None]
    except ValueError as error:
        raise PictureError(str(error).replace(str(path), path.name)) from error
