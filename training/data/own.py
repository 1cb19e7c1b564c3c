"""A person's own pictures and recordings: which files are one object's, and what is wrong with the rest.

    cat.jpg, cat.wav                        the object "cat"
    cat_1.jpg, cat_2.jpg, cat_1.wav         the same object: every picture goes with every recording
    cat/anything.jpg, cat/anything.wav      the same again; in a sub-folder names are free

`NAME_mask.png` (white selects) or transparency cuts an object out of its picture. `cat.txt` has captions, one a
line; without it the name is one ("a cat"). The licence is that of the nearest licence.txt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sounding.audio import normalize, read_audio

from .pairs import MASK, PICTURES, SOUNDS
from .stamps import SAMPLE_RATE, trim
from .videos import read_sound

VIDEO_SOUNDS = (".m4a", ".mp4", ".aac", ".opus", ".mov", ".webm", ".mkv", ".3gp", ".amr", ".wma")  # read by PyAV
NUMBERED = re.compile(r"(?P<name>.+?)(?:[ _-]+\d{1,2}|[ _-]*\(\d{1,2}\))")
NOTES = re.compile(r"(licen[cs]es?|readme|copying|notes?)", re.IGNORECASE)
SIDE = 512  # of a picture's shorter side; the encoder sees less than half of that
LEAST = 0.1  # seconds of sound
MOST = 60.0


@dataclass(frozen=True)
class Picture:
    """RGBA, opaque where the object is; `cut` without a background, `masked` if the object has an outline at all."""

    image: Image.Image
    cut: bool
    masked: bool

    @cached_property
    def cutout(self) -> Image.Image:
        """The object alone; of a picture without a mask, the whole rectangle."""
        return self.image.crop(self.image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())


@dataclass(frozen=True)
class OwnObject:
    """One object: what it is called, looks like and sounds like; recordings are [samples] at 16 kHz, peak 0.5."""

    name: str
    captions: tuple[str, ...]
    pictures: tuple[Picture, ...]
    recordings: tuple[Tensor, ...]
    licence: str


@dataclass
class _Files:
    pictures: list[Path] = field(default_factory=list)
    sounds: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


def read_objects(folder: Path, licence: str = "") -> tuple[list[OwnObject], list[str]]:
    """The objects in `folder`, by name, and one sentence for everything that cannot be used.

    Args:
        folder: see this module's text.
        licence: of objects without a licence.txt beside or above them.

    Raises:
        ValueError: no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, but one with files such as dog.jpg and dog.wav is expected.")
    problems: list[str] = []
    found, masks, licences = _sorted_files(folder, problems)
    objects = []
    for name, files in sorted(found.items()):
        pictures: list[Picture] = []
        recordings: list[Tensor] = []
        for file in files.pictures + files.sounds:
            try:
                if file in files.pictures:
                    pictures.append(_picture(folder, file, masks.get(file.with_suffix("").as_posix(), []), problems))
                else:
                    recordings.append(_recording(folder / file))
            except ValueError as error:
                problems.append(str(error).replace(f"{folder}/", ""))
        if pictures and recordings:
            home = (files.pictures + files.sounds)[0]
            stated = next((licences[up] for up in home.parents if up in licences), licence)
            captions = _captions(folder, name, files.texts)
            objects.append(OwnObject(name, captions, tuple(pictures), tuple(recordings), stated))
        elif files.pictures or files.sounds:
            lack, file_name = ("recording", f"{name}.wav") if pictures else ("picture", f"{name}.jpg")
            problems.append(f"{name} has no {lack} that can be used, so it is left out; add {file_name}.")
    return objects, problems


def read_pictures(folder: Path) -> dict[str, list[Picture]]:
    """The pictures in `folder` by object, with or without recordings; those that cannot be read raise a ValueError."""
    found, masks, _ = _sorted_files(folder, [])
    return {
        name: [_picture(folder, file, masks.get(file.with_suffix("").as_posix(), []), []) for file in files.pictures]
        for name, files in found.items()
    }


def named(name: str) -> str:
    """A file's or folder's name as a caption: "german_shepherd" becomes "a german shepherd"."""
    words = " ".join(re.sub(r"[_\-]+", " ", name).split()).lower()
    if words.split()[0] in ("a", "an", "the", "my", "our", "some"):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _sorted_files(
    folder: Path, problems: list[str]
) -> tuple[dict[str, _Files], dict[str, list[Path]], dict[Path, str]]:
    """Files by object, masks by their picture's path without ending, licences by folder; all relative."""
    found: dict[str, _Files] = {}
    masks: dict[str, list[Path]] = {}
    licences: dict[Path, str] = {}
    for path in sorted(folder.rglob("*")):
        file, ending = path.relative_to(folder), path.suffix.lower()
        if not path.is_file() or any(part.startswith(".") for part in file.parts):
            continue
        if NOTES.fullmatch(file.stem):
            if file.name.lower() in ("licence.txt", "license.txt"):
                text = path.read_text(encoding="utf-8-sig", errors="replace")
                licences[file.parent] = " ".join(text.split())
            continue
        if ending == ".png" and (mask := MASK.fullmatch(file.stem)):
            masks.setdefault(file.with_name(mask["stem"]).as_posix(), []).append(file)
            continue
        numbered = NUMBERED.fullmatch(file.stem)
        name = file.parts[0] if len(file.parts) > 1 else numbered["name"] if numbered else file.stem
        files = found.setdefault(name.strip(), _Files())
        if ending in PICTURES:
            files.pictures.append(file)
        elif ending in SOUNDS or ending in VIDEO_SOUNDS:
            files.sounds.append(file)
        elif ending == ".txt":
            files.texts.append(file)
        else:
            problems.append(
                f"{file} is of a kind that is not read; save pictures as JPEG or PNG, recordings as WAV, FLAC or M4A."
            )
    pictures = {file.with_suffix("").as_posix() for files in found.values() for file in files.pictures}
    for stem in sorted(masks.keys() - pictures):
        problems.append(f"{masks[stem][0]} is a mask, but there is no picture {stem}; give both the same name.")
    return found, masks, licences


def _captions(folder: Path, name: str, texts: list[Path]) -> tuple[str, ...]:
    """The lines of the object's text files; without any its name, with and without an article."""
    lines = [line.strip(" .!") for text in texts for line in _text(folder / text).splitlines()]
    given = tuple(dict.fromkeys(line for line in lines if line))
    plain = " ".join(re.sub(r"[_\-]+", " ", name).split()).lower()
    return given or tuple(dict.fromkeys((named(name), plain)))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _picture(folder: Path, file: Path, masks: list[Path], problems: list[str]) -> Picture:
    """A picture with its outline: masks if there are some, else its own transparency, else none."""
    image = _open(folder / file).convert("RGBA")
    scale = SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    own = np.asarray(image.getchannel("A"))
    outline = Image.fromarray(own)
    if masks:
        shown = [_mask(folder / mask).resize(image.size, Image.Resampling.BICUBIC) for mask in masks]
        outline = Image.fromarray(np.max([np.asarray(one) for one in shown], axis=0))
        if np.asarray(outline).max() < 128:
            problems.append(f"{masks[0]} selects nothing (white selects), so {file} is used as a whole.")
            outline = Image.new("L", image.size, 255)
    elif own.max() < 128:
        raise ValueError(f"{file} is transparent all over, so there is nothing to see; save it without transparency.")
    image.putalpha(outline)
    return Picture(image, cut=not masks and int(own.min()) < 128, masked=int(np.asarray(outline).min()) < 128)


def _mask(path: Path) -> Image.Image:
    """White selects; in a picture with transparency, what is opaque."""
    image = _open(path).convert("RGBA")
    alpha = image.getchannel("A")
    return image.convert("L") if min(alpha.getextrema()) == 255 else alpha


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{path} cannot be read as a picture; save it as JPEG or PNG.") from None


def _recording(path: Path) -> Tensor:
    """[samples] without silence at its ends."""
    if path.suffix.lower() in SOUNDS:
        waveform = read_audio(path, SAMPLE_RATE)
    else:
        from av import FFmpegError

        try:
            waveform = torch.from_numpy(read_sound(path, 0.0, MOST))
        except (FFmpegError, ValueError, IndexError, OSError):
            raise ValueError(f"{path} cannot be read as a recording; save it as WAV, FLAC or M4A.") from None
    waveform = waveform[: round(MOST * SAMPLE_RATE)]
    if not len(waveform) or not torch.isfinite(waveform).all() or float(waveform.abs().max()) < 1e-3:
        raise ValueError(f"{path} is silent; record it again, nearer or louder.")
    waveform = trim(normalize(waveform))
    if len(waveform) < LEAST * SAMPLE_RATE:
        raise ValueError(
            f"{path} has {len(waveform) / SAMPLE_RATE:.2f} s of sound, but {LEAST} s or more are expected; record more."
        )
    return waveform
