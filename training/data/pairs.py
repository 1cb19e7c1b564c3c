"""Pictures and sounds with the same stem: STEM.jpg + STEM.wav (+ STEM_mask.png, STEM.txt) in a folder or below it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .making import Source, digest
from .shard_format import SAMPLE_RATE, Sample

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
MASK = re.compile(r"(?P<stem>.+)_mask(_(?P<number>\d+))?")
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


def find_pairs(folder: Path) -> list[Pair]:
    """All stems under `folder` that have a picture or a sound, in order of their paths.

    A file STEM_mask.png (or STEM_mask_1.png, STEM_mask_2.png ...) is a mask of the picture STEM. The licence is
    the nearest licence.txt, in the file's folder or above it up to `folder`.

    Raises:
        ValueError: no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, but one with pictures and sounds is expected.")
    files: dict[str, dict[str, list[str]]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative, ending = file.relative_to(folder), file.suffix.lower()
        kind = "picture" if ending in PICTURES else "sound" if ending in SOUNDS else "text" if ending == ".txt" else ""
        mask = MASK.fullmatch(file.stem) if ending == ".png" else None
        if kind:
            stem = relative.with_name(mask["stem"] if mask else file.stem).as_posix()
            files.setdefault(stem, {}).setdefault("mask" if mask else kind, []).append(relative.as_posix())
    licences = {kinds["text"][0] for stem, kinds in files.items() if Path(stem).name == "licence" and "text" in kinds}

    def licence(stem: str) -> str | None:
        return next((f for up in Path(stem).parents if (f := (up / "licence.txt").as_posix()) in licences), None)

    def number(mask: str) -> int:
        found = MASK.fullmatch(Path(mask).stem)
        return int(found["number"] or 0) if found else 0

    return [
        Pair(
            stem,
            kinds.get("picture", [None])[0],
            kinds.get("sound", [None])[0],
            tuple(sorted(kinds.get("mask", []), key=number)),
            kinds.get("text", [None])[0],
            licence(stem),
        )
        for stem, kinds in sorted(files.items())
        if kinds.keys() & {"picture", "sound"}
    ]


class PairSource(Source):
    """Pairs as samples of one picture. Each line of STEM.txt is a caption; without it there are none.

    Sound is kept whole up to `LONGEST` times `seconds` (a minute for the usual 10 s) and cut there. Pictures with
    a shorter side above `size` are made smaller; masks follow their picture, and all of their objects sound.
    """

    def __init__(self, folder: Path, *, seconds: float, size: int, licence: str):
        if not 0.1 <= seconds < float("inf") or size < 16:
            raise ValueError(f"seconds {seconds} and size {size} came, but 0.1 and 16 or more are expected.")
        self.pairs = find_pairs(folder)
        if not self.pairs:
            raise ValueError(f"{folder} has no pictures or sounds, but files such as dog.jpg and dog.wav are expected.")
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
            "inputs": digest(rows),
        }

    def name(self, position: int) -> str:
        """See Source."""
        return self.pairs[position].id

    def make(self, position: int) -> Sample:
        """See Source."""
        from sounding.audio import read_audio
        from sounding.pictures import read_image, read_mask

        pair = self.pairs[position]
        if pair.picture is None or pair.sound is None:
            here, there = ("sound", "picture") if pair.picture is None else ("picture", "sound")
            raise ValueError(f"{pair.id} has a {here} but no {there} of the same name.")
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
            pictures=(picture,),
            masks=masks,
        )

    def _lines(self, file: str | None) -> list[str]:
        """The lines of a text file that say something."""
        if file is None:
            return []
        text = (self.folder / file).read_text(encoding="utf-8-sig")
        return [line.strip() for line in text.splitlines() if line.strip()]


def _shrunk(values: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] 0..1 -> uint8, its shorter side at most `size`."""
    scale = min(1.0, size / min(values.shape[:2]))
    return _resized(values, (max(1, round(scale * values.shape[1])), max(1, round(scale * values.shape[0]))))


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W] or [H, W, 3] 0..1 -> uint8 of `size` (width, height)."""
    from PIL import Image

    picture = Image.fromarray(np.round(values * 255).astype(np.uint8))
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
