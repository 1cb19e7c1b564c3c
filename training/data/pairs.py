"""Images and sounds with the same stem: STEM.jpg + STEM.wav (+ STEM_mask.png, STEM.txt) in a folder or below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .media_files import NOTES, find_media, read_text
from .shard_format import SAMPLE_RATE, Sample, Skipped
from .source import Source, hash_json

LONGEST = 6  # times the nominal length


@dataclass(frozen=True)
class Pair:
    """The files of one stem, relative to the folder."""

    id: str  # path without an ending
    picture: str | None
    sound: str | None
    masks: tuple[str, ...]
    text: str | None
    licence: str | None


def find_pairs(folder: Path) -> tuple[list[Pair], list[Skipped]]:
    """All stems under `folder` that have an image or a sound, in order of their paths, and the files of no use.

    A file STEM_mask.png is a mask of the image STEM (see `media_files`). The licence is the nearest licence.txt, in
    the file's folder or above it up to `folder`.

    Raises:
        ValueError: no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, but one with images and sounds is expected.")
    media = find_media(folder)
    stems: dict[str, dict[str, list[str]]] = {}
    for kind in ("image", "sound", "text"):
        for file in media.files[kind]:
            stems.setdefault(media.stem(file), {}).setdefault(kind, []).append(file)
    _join_by_case(stems)
    left_out = list(media.left_out)
    pairs = []
    for stem, kinds in sorted(stems.items()):
        names = [name for kind in ("image", "sound") for name in kinds.get(kind, [])[:1]]
        for kind, files in kinds.items():
            left_out += [
                Skipped(file, f"{files[0]} is the {kind} of that name; give one of them.") for file in files[1:]
            ]
        masks = media.masks.get(stem, ())
        if not names:
            if not NOTES.fullmatch(Path(stem).name):
                left_out += [Skipped(file, "There is no image or sound of that name.") for file in kinds["text"]]
            left_out += [Skipped(file, "There is no image that it is a mask of.") for file in masks]
            continue
        pairs.append(
            Pair(
                stem,
                kinds.get("image", [None])[0],
                kinds.get("sound", [None])[0],
                tuple(masks),
                kinds.get("text", [None])[0],
                media.licence(names[0]),
            )
        )
    for stem in sorted(media.masks.keys() - stems.keys()):
        left_out += [Skipped(file, "There is no image that it is a mask of.") for file in media.masks[stem]]
    return pairs, left_out


def _join_by_case(stems: dict[str, dict[str, list[str]]]) -> None:
    """Put an image and a sound together that lack each other and differ only in upper and lower case."""
    alike: dict[str, list[str]] = {}
    for stem, kinds in stems.items():
        if len(kinds.keys() & {"image", "sound"}) == 1:
            alike.setdefault(stem.casefold(), []).append(stem)
    for found in alike.values():
        if len(found) == 2 and {"image", "sound"} <= stems[found[0]].keys() | stems[found[1]].keys():
            picture, sound = sorted(found, key=lambda stem: "image" not in stems[stem])
            for kind, files in stems.pop(sound).items():
                stems[picture].setdefault(kind, []).extend(files)


class PairSource(Source):
    """Pairs as samples of one image. Each line of STEM.txt is a caption; without it there are none.

    Sound is kept whole up to `LONGEST` times `seconds` (a minute for the usual 10 s) and cut there. Images with
    a shorter side above `size` are made smaller; masks follow their image, and all of their objects sound.
    """

    def __init__(self, folder: Path, *, seconds: float, size: int, licence: str):
        if not 0.1 <= seconds < float("inf") or size < 16:
            raise ValueError(f"seconds {seconds} and size {size} came, but 0.1 and 16 or more are expected.")
        self.pairs, self.unused = find_pairs(folder)
        if not self.pairs:
            raise ValueError(f"{folder} has no images or sounds, but files such as dog.jpg and dog.wav are expected.")
        self.folder, self.seconds, self.size, self.licence = folder, seconds, size, licence

    def __len__(self) -> int:
        return len(self.pairs)

    def settings(self) -> dict[str, Any]:
        """See Source."""
        rows = [[p.id, p.picture, p.sound, p.masks, p.text, p.licence] for p in self.pairs]
        return {
            "from": "pairs",
            "seconds": self.seconds,
            "size": self.size,
            "licence": self.licence,
            "inputs": hash_json(rows),
        }

    def left_out(self) -> list[Skipped]:
        """See Source."""
        return self.unused

    def name(self, position: int) -> str:
        """See Source."""
        return self.pairs[position].id

    def make(self, position: int) -> Sample:
        """See Source."""
        from sounding.audio.files import read_audio
        from sounding.images.files import read_image, read_mask

        pair = self.pairs[position]
        if pair.picture is None or pair.sound is None:
            here, there = ("a sound", "image") if pair.picture is None else ("an image", "sound")
            raise ValueError(f"{pair.id} has {here} but no {there} of the same name.")
        waveform = read_audio(self.folder / pair.sound, SAMPLE_RATE).numpy()
        waveform = waveform[: round(LONGEST * self.seconds * SAMPLE_RATE)]
        if not len(waveform) or not np.isfinite(waveform).all() or np.abs(waveform).max() < 1 / 32768:
            raise ValueError(f"{pair.sound} is empty or silent.")
        picture = _shrunk(read_image(self.folder / pair.picture)[0].numpy(), self.size)
        size = (picture.shape[1], picture.shape[0])
        masks = tuple(_resized(read_mask(self.folder / mask)[0].numpy(), size) for mask in pair.masks)
        return Sample(
            id=pair.id,
            captions=tuple(self._lines(pair.text)),
            licence=" ".join(self._lines(pair.licence)) or self.licence,
            source=pair.sound,
            seconds=round(len(waveform) / SAMPLE_RATE, 3),
            sounding=tuple(range(len(masks))) if masks else None,
            waveform=waveform,
            images=(picture,),
            masks=masks,
        )

    def _lines(self, file: str | None) -> list[str]:
        """The lines of a text file that say something."""
        if file is None:
            return []
        return [line.strip() for line in read_text(self.folder / file).splitlines() if line.strip()]


def _shrunk(values: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] 0..1 -> uint8, its shorter side at most `size`."""
    scale = min(1.0, size / min(values.shape[:2]))
    return _resized(values, (max(1, round(scale * values.shape[1])), max(1, round(scale * values.shape[0]))))


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W] or [H, W, 3] 0..1 -> uint8 of `size` (width, height)."""
    from PIL import Image

    picture = Image.fromarray(np.round(values * 255).astype(np.uint8))
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
