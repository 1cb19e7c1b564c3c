"""Whether results can be written, found out before the work that makes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NAME_BYTES = 255  # of a file's name, on nearly all file systems


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise ValueError unless files can be written to `folder`; what is missing of it is made with the first one."""
    place = Path(os.path.abspath(folder))
    for part in place.parts:
        if len(os.fsencode(part)) > NAME_BYTES:
            raise ValueError(f"{option} names a folder of {len(os.fsencode(part))} bytes; give a shorter name.")
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        kind = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        raise ValueError(f"{option} {folder}: {place} is {kind}, but a folder is expected; give another one.")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: {place} cannot be written to ({error.strerror or error}); give a folder of your own."
        ) from None


def check_file(file: Path, option: str = "--out") -> None:
    """Raise ValueError unless `file` can be written, over a file that is there or anew."""
    length = len(os.fsencode(file.name))
    if length > NAME_BYTES:
        raise ValueError(f"{option} names a file of {length} bytes, but at most {NAME_BYTES} are possible; shorten it.")
    if not file.name or file.is_dir():
        raise ValueError(f"{option} {file} is a folder, but the name of a file is expected; add one.")
    if file.exists() and not file.is_file():
        raise ValueError(f"{option} {file} is no regular file; give the name of one.")
    check_folder(file.parent, option)
