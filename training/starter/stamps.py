"""Photographic cut-outs with real recordings from Debian's `tuxpaint-stamps-default` (GPL-2.0-or-later).

Get the package with `apt-get install tuxpaint-stamps-default`, or without root:
`apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb FOLDER`.

    python -m training starter stamps --source FOLDER --out data/stamps

writes `image/NAME.png` (RGB with alpha), `mask/NAME.png` (the alpha channel), `audio/NAME.wav` (16 kHz mono,
silence at the ends trimmed) and `manifest.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sounding.audio.files import read_audio, write_audio
from sounding.audio.mel import normalize
from sounding.images.decoding import open_image
from sounding.utils.files import write_atomic

from ..data.object_set import ObjectEntry, without_margin
from ..data.shard_format import SAMPLE_RATE
from ..data.waveforms import trim

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


def find_stamps(source: Path) -> list[Path]:
    """Images under `source` (an unpacked package, its stamps folder, or `/`) that have a recording.

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


def caption_of(picture: Path) -> str:
    """The stamp's own English sentence as a phrase: "A dog." becomes "a dog"."""
    if picture.stem in CAPTIONS:
        return CAPTIONS[picture.stem]
    sentence = picture.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0].strip(" .!")
    return sentence[0].lower() + sentence[1:]


def build(source: Path, out: Path) -> list[ObjectEntry]:
    """Write the data set from `source` to `out` and return its manifest."""
    for folder in ("image", "mask", "audio"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    stamps: list[ObjectEntry] = []
    for picture in find_stamps(source):
        name = picture.stem
        recording = read_audio(picture.with_suffix(".ogg"), SAMPLE_RATE)
        if recording.abs().max() < 1e-3:  # some animals have a second of digital silence for a sound
            continue
        cutout = without_margin(open_image(picture).convert("RGBA"))
        cutout.save(out / "image" / f"{name}.png")
        cutout.getchannel("A").save(out / "mask" / f"{name}.png")
        waveform = trim(normalize(recording))
        write_audio(out / "audio" / f"{name}.wav", waveform, SAMPLE_RATE)
        stamps.append(
            ObjectEntry(
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
