"""Files from elsewhere under names of our own: inside one folder, with endings that open in a player or a viewer."""

from __future__ import annotations

import filecmp
import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..utils.files import hidden_name, remove_abandoned
from .answers import SOUNDS

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov")
DATA = (".txt", ".json", ".csv", ".srt", ".vtt", ".latent", ".safetensors", ".glb")
ENDINGS = (*SOUNDS, *IMAGES, *VIDEOS, *DATA)
OTHER = ".bin"  # what nothing opens by itself
STEM_BYTES = 120  # of a name without its ending; some file systems take no more than 143 for the whole
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}


def own_name(told: str, fallback: str = "file") -> str:
    """A file's name made of the letters, digits and ending of a name from elsewhere.

    Only letters and digits of any language, spaces and `_-.()+` are left; the ending is one of `ENDINGS` or ".bin".
    """
    last = told.replace("\\", "/").rpartition("/")[2]
    path = PurePosixPath(last)
    ending = path.suffix.lower()
    known = ending in (*ENDINGS, OTHER)
    stem = _plain(path.stem if known else last) or _plain(fallback) or "file"
    if stem.partition(".")[0].rstrip().upper() in _DEVICES:  # opening these on Windows opens a device
        stem = f"_{stem}"
    return stem + (ending if known else OTHER)


def _plain(text: str) -> str:
    normal = unicodedata.normalize("NFC", text[:1000])
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" or c in " _-.()+" else "_" for c in normal)
    cut = kept.encode()[:STEM_BYTES].decode(errors="ignore")
    return cut.lstrip(" .-").rstrip(" .") if cut.strip(" .-_") else ""


def store(pieces: Iterable[bytes], folder: Path, name: str) -> Path:
    """Write pieces to `folder / name`; a name that anything else has gets a number, the same content is left alone.

    What lies in the folder is neither overwritten nor followed, links least of all. The file appears when it is whole.
    What killed writers left in the folder goes.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ending = PurePosixPath(name).suffix
    remove_abandoned(folder)
    temporary = folder / f"{hidden_name()}{ending}"
    try:
        # Made here rather than by tempfile, so that it has the permissions of any new file.
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        path, number = folder / name, 0
        while not _placed(temporary, path):
            number += 1
            path = folder / f"{name.removesuffix(ending)} ({number}){ending}"
        return path
    finally:
        temporary.unlink(missing_ok=True)


def _placed(temporary: Path, path: Path) -> bool:
    """Give a file its name unless something has it; whether content and name belong together now."""
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: take the name first
            open(path, "xb").close()
            os.replace(temporary, path)
    except FileExistsError:
        there = os.lstat(path)
        same = stat.S_ISREG(there.st_mode) and there.st_size == temporary.stat().st_size
        return same and filecmp.cmp(temporary, path, shallow=False)
    return True
