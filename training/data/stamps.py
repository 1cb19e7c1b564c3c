"""Photographic cut-outs with real recordings from Debian's `tuxpaint-stamps-default` (GPL-2.0-or-later).

Get the package with `apt-get install tuxpaint-stamps-default`, or without root:
`apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb FOLDER`.

    python -m training.data.stamps --source FOLDER --out data/stamps

writes `image/NAME.png` (RGB with alpha), `mask/NAME.png` (the alpha channel), `audio/NAME.wav` (16 kHz mono,
silence at the ends trimmed) and `manifest.json`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sounding.audio.files import read_audio, write_audio
from sounding.audio.mel import normalize
from sounding.config import from_dict
from sounding.images.decoding import open_picture
from sounding.utils.files import write_atomic

from .shard_format import SAMPLE_RATE, read_json

MOST_MANIFEST = 1 << 26  # bytes
LICENCE = "GPL-2.0-or-later (tuxpaint-stamps, Copyright 2002-2022 Bill Kendrick and contributors)"

# Stamps that have a sound but are no photograph of what makes it: drawings, signs, spoken words, music cues.
NOT_PHOTOGRAPHS = {
    "bee", "lightningbolt", "hard_candy", "santahat", "bat_left", "blackcat", "ghost", "spider",
    "dreydl-gimmel", "dreydl-hay", "dreydl-nun", "dreydl-shin", "fireworks", "apollo_lander",
    "final-roll-call", "checkeredflag", "no_uturn", "xing_ped", "xing_school",
}  # fmt: skip

# Where the stamp's sentence does not name the thing, or names two stamps alike.
CAPTIONS = {
    "apple_red": "an apple",
    "cow_white": "a white cow",
    "glass": "a glass",
    "mallet_metal": "a metal mallet",
    "pig_golden": "a Tamworth pig",
    "pig_golden2": "a resting Tamworth pig",
    "scissors_small_closed": "closed scissors",
    "scissors_small_open": "open scissors",
    "sheep_lamb": "a lamb",
    "toilet": "a toilet",
}


@dataclass(frozen=True)
class Stamp:
    """One object: a cut-out picture, its mask and a recording of it. Paths are relative to the manifest."""

    name: str
    label: int
    caption: str
    image: str
    mask: str
    audio: str
    seconds: float
    source: str
    licence: str


def find_stamps(source: Path) -> list[Path]:
    """Pictures under `source` (an unpacked package, its stamps folder, or `/`) that have a recording.

    Raises:
        FileNotFoundError: no stamps there; the message says how to get the package.
    """
    candidates = (source / "usr/share/tuxpaint/stamps", source)
    root = next((folder for folder in candidates if (folder / "animals").is_dir()), None)
    if root is None:
        raise FileNotFoundError(
            f"No Tux Paint stamps under {source}; run `apt-get install tuxpaint-stamps-default` and give /, or "
            "`apt-get download` it, unpack with `dpkg -x`, and give that folder."
        )
    found = []
    for sound in sorted(root.rglob("*.ogg")):
        picture = sound.with_suffix(".png")
        drawn = {"symbols", "cartoon"} & set(sound.parts)
        if "_desc" not in sound.stem and not drawn and sound.stem not in NOT_PHOTOGRAPHS and picture.is_file():
            found.append(picture)
    return found


def trim(waveform: torch.Tensor, floor_db: float = -40.0) -> torch.Tensor:
    """Cut what is `floor_db` below the peak off both ends of [samples], leaving 20 ms around the sound."""
    loud = (waveform.abs() > waveform.abs().max() * 10 ** (floor_db / 20)).nonzero()
    margin = SAMPLE_RATE // 50
    start = max(0, int(loud[0]) - margin)
    return waveform[start : int(loud[-1]) + 1 + margin]


def caption_of(picture: Path) -> str:
    """The stamp's own English sentence as a phrase: "A dog." becomes "a dog"."""
    if picture.stem in CAPTIONS:
        return CAPTIONS[picture.stem]
    sentence = picture.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0].strip(" .!")
    return sentence[0].lower() + sentence[1:]


def build(source: Path, out: Path) -> list[Stamp]:
    """Write the data set from `source` to `out` and return its manifest."""
    for folder in ("image", "mask", "audio"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    stamps: list[Stamp] = []
    for picture in find_stamps(source):
        name = picture.stem
        recording = read_audio(picture.with_suffix(".ogg"), SAMPLE_RATE)
        if recording.abs().max() < 1e-3:  # some animals have a second of digital silence for a sound
            continue
        cutout = open_picture(picture).convert("RGBA")
        cutout = cutout.crop(cutout.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
        cutout.save(out / "image" / f"{name}.png")
        cutout.getchannel("A").save(out / "mask" / f"{name}.png")
        waveform = trim(normalize(recording))
        write_audio(out / "audio" / f"{name}.wav", waveform, SAMPLE_RATE)
        stamps.append(
            Stamp(
                name=name,
                label=len(stamps),
                caption=caption_of(picture),
                image=f"image/{name}.png",
                mask=f"mask/{name}.png",
                audio=f"audio/{name}.wav",
                seconds=round(len(waveform) / SAMPLE_RATE, 3),
                source="tuxpaint-stamps-default: " + "/".join(picture.parts[picture.parts.index("stamps") + 1 :]),
                licence=LICENCE,
            )
        )
    write_atomic(out / "manifest.json", json.dumps([asdict(stamp) for stamp in stamps], indent=1).encode())
    return stamps


def read_manifest(folder: Path) -> list[Stamp]:
    """The objects of a data set that `build` wrote.

    Raises:
        FileNotFoundError: no data set; says how to make it.
        ValueError: a damaged one, or files outside of its folder.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest} is missing; make it with `python -m training.data.stamps --out {folder}`.")
    try:
        rows = read_json(manifest, MOST_MANIFEST)
        if not isinstance(rows, list):
            raise ValueError(f"a {type(rows).__name__} came, but a list is expected")
        stamps: list[Stamp] = [from_dict(Stamp, row) for row in rows]
        for stamp in stamps:
            for file in (stamp.image, stamp.audio):
                if not (folder / file).resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"{file[:100]!r} is not in its folder")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); make the data set again.") from None
    return stamps


class Stamps:
    """The data set in memory: `stamps`, `cutouts` (PIL RGBA) and `recordings` ([samples] float at 16 kHz).

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`; also a file that cannot be read.
    """

    def __init__(self, folder: Path):
        self.stamps = read_manifest(folder)
        self.cutouts = [open_picture(folder / stamp.image).convert("RGBA") for stamp in self.stamps]
        self.recordings = [read_audio(folder / stamp.audio, SAMPLE_RATE) for stamp in self.stamps]

    def __len__(self) -> int:
        return len(self.stamps)


def fill(recording: torch.Tensor, samples: int, rng: np.random.Generator) -> torch.Tensor:
    """A clip of `samples` from one recording: a random cut of a long one, a short one repeated with random gaps."""
    if len(recording) >= samples:
        start = int(rng.integers(0, len(recording) - samples + 1))
        return recording[start : start + samples].clone()
    clip = torch.zeros(samples)
    position = int(rng.integers(0, min(SAMPLE_RATE // 2, samples - len(recording)) + 1))
    while position < samples:
        end = min(position + len(recording), samples)
        clip[position:end] = recording[: end - position]
        position = end + int(rng.integers(SAMPLE_RATE // 20, SAMPLE_RATE * 3 // 4))
    return clip


def mix(clips: list[torch.Tensor], gains_db: list[float]) -> torch.Tensor:
    """Sum [samples] clips at equal loudness (RMS while sounding) moved by `gains_db`; peak 0.5."""
    total = torch.zeros_like(clips[0])
    for clip, gain in zip(clips, gains_db, strict=True):
        sounding = clip[clip.abs() > 1e-4]
        level = sounding.square().mean().sqrt() if len(sounding) else torch.tensor(1.0)
        total += clip / level * 10 ** (gain / 20)
    return normalize(total)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/"), help="where the package is installed or unpacked")
    parser.add_argument("--out", type=Path, default=Path("data/stamps"))
    arguments = parser.parse_args()
    try:
        stamps = build(arguments.source, arguments.out)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    seconds = sum(stamp.seconds for stamp in stamps)
    print(f"{len(stamps)} objects, {seconds:.0f} s of recordings, in {arguments.out}")


if __name__ == "__main__":
    main()
