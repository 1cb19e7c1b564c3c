"""A folder of a person's images, recordings and texts: which file is of what kind, and which are of no use.

Names are compared as people see them (Unicode's NFC form: a Mac writes accents as letters of their own). An image of
any kind whose name ends in "mask" after _, -, space or dot, in any case and with or without a number (sedan_mask.png,
Sedan-Mask 2.JPG), is a mask of the image of the name before, unless there is no such image but a sound of the very
name: then it is an image of a mask. Hidden files are not looked at.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from .shard_format import Skipped

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
VIDEO_SOUNDS = (".m4a", ".mp4", ".aac", ".opus", ".mov", ".webm", ".mkv", ".3gp", ".amr", ".wma")  # read by PyAV
OTHER_MEDIA = (".heic", ".heif", ".jxl", ".psd", ".raw", ".dng", ".svg", ".caf", ".ape")  # that systems may not know
MASK = re.compile(
    r"(?P<name>(?P<stem>.+?)[ _.-]+masks?)(?:[ _.-]*\(?(?P<number>\d{1,6})\)?)?", re.IGNORECASE | re.DOTALL
)
NOTES = re.compile(r"(licen[cs]es?|readme|copying|notes?)", re.IGNORECASE)
LICENCES = ("licence.txt", "license.txt")
KINDS = ("image", "sound", "text", "other")
MOST_TEXT = 1_000_000  # bytes


@dataclass
class Media:
    """Paths relative to a folder, in order: by kind ("image", "sound", "text", "other"), and masks by their stem."""

    folder: Path
    files: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    masks: dict[str, list[str]] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)  # file by its folder
    left_out: list[Skipped] = field(default_factory=list)

    def stem(self, file: str) -> str:
        """The path without its ending, as people see it."""
        return composed(Path(file).with_name(Path(file).stem).as_posix())

    def licence(self, file: str) -> str | None:
        """The licence file that is nearest to a file: in its folder or above."""
        return next((self.licences[up.as_posix()] for up in Path(file).parents if up.as_posix() in self.licences), None)


def find_media(folder: Path, *, sounds: tuple[str, ...] = SOUNDS) -> Media:
    """All files under `folder`; sounds are those with an ending of `sounds`."""
    media = Media(folder)
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder)
        if any(part.startswith(".") for part in file.parts) or path.is_dir():
            continue
        if not path.is_file():
            media.left_out.append(Skipped(file.as_posix(), "It is a broken link, or no ordinary file."))
            continue
        media.files[_kind(file, sounds)].append(file.as_posix())
    stated = [Path(name) for name in media.files["text"] if Path(name).name.lower() in LICENCES]
    for file in stated:
        media.licences.setdefault(file.parent.as_posix(), file.as_posix())
    media.files["text"] = [name for name in media.files["text"] if Path(name) not in stated]
    for name in media.files["other"]:
        kind = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
        if kind in ("image", "audio", "video") or Path(name).suffix.lower() in OTHER_MEDIA:
            why = "It is of a kind that is not read; save images as JPEG or PNG, recordings as WAV or FLAC."
            media.left_out.append(Skipped(name, why))
    _take_masks(media)
    return media


def _kind(file: Path, sounds: tuple[str, ...]) -> str:
    ending = file.suffix.lower()
    return "image" if ending in PICTURES else "sound" if ending in sounds else "text" if ending == ".txt" else "other"


def _take_masks(media: Media) -> None:
    """Move masks from the images to where they belong, by their numbers."""
    stems = {media.stem(file) for file in media.files["image"]}
    sounding = {media.stem(file) for file in media.files["sound"]}
    pictures: list[str] = []
    found: list[tuple[str, int, str]] = []
    lower = {stem.casefold(): stem for stem in sorted(stems, reverse=True)}
    for file in media.files["image"]:
        own = media.stem(file)
        match = MASK.fullmatch(Path(own).name)
        stem, name = (Path(own).with_name(match[group]).as_posix() if match else "" for group in ("stem", "name"))
        if match is None or (sounding & {own, name} and stem.casefold() not in lower):
            pictures.append(file)
        else:
            stem = stem if stem in stems or stem in sounding else lower.get(stem.casefold(), stem)
            found.append((stem, int(match["number"] or 0), file))
    for stem, _, file in sorted(found):
        media.masks.setdefault(stem, []).append(file)
    media.files["image"] = pictures


def composed(text: str) -> str:
    """In Unicode's NFC form."""
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        ValueError: it cannot be read, is too large, or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_TEXT + 1)
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); save it as text in UTF-8.") from None
    if len(data) > MOST_TEXT or "\0" in text:
        raise ValueError(f"{path.name} is no text of at most {MOST_TEXT:,} bytes, which is expected; mend the file.")
    return text
