"""A user's own images and recordings: which files belong to one object, and what is wrong with the rest.

    cat.jpg, cat.wav                        the object "cat"
    cat_1.jpg, cat_2.jpg, cat_1.wav         the same object: every image goes with every recording
    cat/anything.jpg, cat/anything.wav      the same again; in a sub-folder names are free

`NAME_mask.png` (white selects, see `media_files`) or transparency cuts an object out of its image. `cat.txt` has
captions, one per line; without it the name is one ("a cat"). The licence is that of the nearest licence.txt. Upper and
lower case make no difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sounding.audio.files import read_audio
from sounding.audio.mel import normalize
from sounding.images.decoding import open_image, open_mask

from ..data.media_files import NOTES, SOUNDS, VIDEO_SOUNDS, Media, composed, find_media, read_text
from ..data.object_set import without_margin
from ..data.shard_format import SAMPLE_RATE, reason
from ..data.videos import read_sound
from ..data.waveforms import trim

NUMBERED = re.compile(r"(?P<name>.+?)(?:[ _-]+\d{1,2}|[ _-]*\(\d{1,2}\))")
SIDE = 512  # of an image's shorter side; the encoder sees less than half of that
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
        """The object alone; of an image without a mask, the whole rectangle."""
        return without_margin(self.image)


@dataclass(frozen=True)
class TaughtObject:
    """One object: what it is called, looks like and sounds like; recordings are [samples] at 16 kHz, peak 0.5."""

    name: str
    captions: tuple[str, ...]
    pictures: tuple[Picture, ...]
    recordings: tuple[Tensor, ...]
    licence: str


@dataclass
class _Files:
    """Of one object, relative to the folder."""

    name: str
    pictures: list[str] = field(default_factory=list)
    sounds: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def read_objects(folder: Path, licence: str = "") -> tuple[list[TaughtObject], list[str]]:
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
    found, media = _sorted_files(folder, problems)
    objects = []
    for files in found:
        name = files.name
        pictures: list[Picture] = []
        recordings: list[Tensor] = []
        for file in files.pictures + files.sounds:
            try:
                if file in files.pictures:
                    pictures.append(_picture(folder, file, media.masks.get(media.stem(file), []), problems))
                else:
                    recordings.append(_recording(folder / file))
            except ValueError as error:
                problems.append(str(error).replace(f"{folder}/", ""))
            except Exception as error:  # decoders raise almost every kind for broken files
                problems.append(f"{file} cannot be read ({reason(error)}); save it anew, or leave it out.")
        captions = _captions(folder, name, files.texts, problems)
        if pictures and recordings and not captions:
            problems.append(
                f"{name!r} has no word in its name, so it is left out; rename its files, or add {name}.txt."
            )
        elif pictures and recordings:
            stated = _licence(media, (files.pictures + files.sounds)[0], problems)
            objects.append(TaughtObject(name, captions, tuple(pictures), tuple(recordings), stated or licence))
        elif files.pictures or files.sounds:
            lack, file_name = ("recording", f"{name}.wav") if pictures else ("image", f"{name}.jpg")
            problems.append(f"{name} has no {lack} that can be used, so it is left out; add {file_name}.")
        elif files.texts and not NOTES.fullmatch(name):
            problems.append(f"{files.texts[0]} is of no object; add {name}.jpg and {name}.wav, or remove it.")
    return objects, problems


def read_pictures(folder: Path) -> dict[str, list[Picture]]:
    """The images in `folder` by object, with or without recordings; those that cannot be read raise a ValueError."""
    found, media = _sorted_files(folder, [])
    return {
        files.name: [_picture(folder, file, media.masks.get(media.stem(file), []), []) for file in files.pictures]
        for files in found
    }


def named(name: str) -> str:
    """A file's or folder's name as a caption: "german_shepherd" becomes "a german shepherd", a name of none ""."""
    words = _words(name)
    if not words or words.split()[0] in ("a", "an", "the", "my", "our", "some"):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _words(name: str) -> str:
    """A name in small letters with spaces; "" if it has neither letters nor figures."""
    words = " ".join(re.sub(r"[_\-]+", " ", name).split()).lower()
    return words if any(letter.isalnum() for letter in words) else ""


def _sorted_files(folder: Path, problems: list[str]) -> tuple[list[_Files], Media]:
    """Files by object, in order of their names."""
    media = find_media(folder, sounds=(*SOUNDS, *VIDEO_SOUNDS))
    found: dict[str, _Files] = {}
    for kind in ("image", "sound", "text"):
        for file in media.files[kind]:
            path = Path(composed(file))
            numbered = NUMBERED.fullmatch(path.stem)
            name = path.parts[0] if len(path.parts) > 1 else numbered["name"] if numbered else path.stem
            files = found.setdefault(name.strip().casefold(), _Files(name.strip()))
            {"image": files.pictures, "sound": files.sounds, "text": files.texts}[kind].append(file)
    for file in sorted({*media.files["other"], *(left.id for left in media.left_out)}):
        if not NOTES.fullmatch(Path(file).stem):
            problems.append(
                f"{file} is of a kind that is not read; save images as JPEG or PNG, recordings as WAV, FLAC or M4A."
            )
    pictures = {media.stem(file) for file in media.files["image"]}
    for stem in sorted(media.masks.keys() - pictures):
        problems.append(f"{media.masks[stem][0]} is a mask, but there is no image {stem}; give both the same name.")
    return sorted(found.values(), key=lambda files: files.name), media


def _captions(folder: Path, name: str, texts: list[str], problems: list[str]) -> tuple[str, ...]:
    """The lines of the object's text files; without any its name, with and without an article."""
    lines: list[str] = []
    for text in texts:
        try:
            lines += [line.strip(" .!") for line in read_text(folder / text).splitlines()]
        except ValueError as error:
            problems.append(str(error))
    given = tuple(dict.fromkeys(line for line in lines if line))
    return given or tuple(dict.fromkeys(form for form in (named(name), _words(name)) if form))


def _licence(media: Media, file: str, problems: list[str]) -> str:
    """What the nearest licence.txt says, on one line; "" if there is none."""
    if (found := media.licence(file)) is None:
        return ""
    try:
        return " ".join(read_text(media.folder / found).split())
    except ValueError as error:
        problems.append(str(error))
        return ""


def _picture(folder: Path, file: str, masks: list[str], problems: list[str]) -> Picture:
    """An image with its outline: masks if there are some, else its own transparency, else none."""
    image = open_image(folder / file).convert("RGBA")
    scale = SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    own = np.asarray(image.getchannel("A"))
    outline = Image.fromarray(own)
    if masks:
        shown = [open_mask(folder / mask).resize(image.size, Image.Resampling.BICUBIC) for mask in masks]
        outline = Image.fromarray(np.max([np.asarray(one) for one in shown], axis=0))
        if np.asarray(outline).max() < 128:
            problems.append(f"{masks[0]} selects nothing (white selects), so {file} is used as a whole.")
            outline = Image.new("L", image.size, 255)
    elif own.max() < 128:
        raise ValueError(f"{file} is transparent all over, so there is nothing to see; save it without transparency.")
    image.putalpha(outline)
    return Picture(image, cut=not masks and int(own.min()) < 128, masked=int(np.asarray(outline).min()) < 128)


def _recording(path: Path) -> Tensor:
    """[samples] without silence at its ends."""
    if path.suffix.lower() in SOUNDS:
        waveform = read_audio(path, SAMPLE_RATE)
    else:
        try:
            waveform = torch.from_numpy(read_sound(path, 0.0, MOST))
        except Exception:  # decoders raise almost every kind for broken files
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
