"""A soundscape's tracks as a folder: a sound file per object, their mix, a session, and what each of them is."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..utils.files import hidden_name
from ..utils.messages import printable
from .files import Tags, check_depth, write_audio
from .resampling import resample
from .scene import Scene
from .session import SOURCES, SessionTrack, session_text

KINDS = ("dry", "placed")
NAME_LETTERS = 60  # of a file's name
LISTED, SESSION = "stems.json", "session.rpp"


def check_stems(folder: str | os.PathLike[str], ending: str, depth: str, kind: str) -> None:
    """Whether `write_stems` takes these, to be asked before long work.

    Raises:
        ValueError: the folder is there and not empty, files of this ending cannot be in a session or do not keep this
            depth, or there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"The stems are to be {kind!r}, but one of {', '.join(KINDS)} is expected.")
    if ending not in SOURCES:
        raise ValueError(f"Stems end in {ending!r}, but one of {', '.join(SOURCES)} is expected.")
    check_depth(f"stem{ending}", depth)
    if os.path.lexists(folder) and (not os.path.isdir(folder) or any(os.scandir(folder))):
        raise ValueError(f"{folder} is there already, but a new folder is expected; give another name.")


def write_stems(
    folder: str | os.PathLike[str],
    scene: Scene,
    names: Sequence[str],
    *,
    kind: str = "dry",
    ending: str = ".wav",
    depth: str = "24",
    to_rate: int | None = None,
    graph: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a folder of stems: all of it or, if anything fails, nothing.

    Args:
        folder: a new or empty one.
        scene: the sounds and their settings.
        names: one per track; files are called by number and name.
        kind: "dry" stems are the sounds as they were made, in mono, and the session places them; of a place it has pan
            and gain, but not the muffling, delay and reflections. "placed" stems have all of their place in them.
            Gains, offsets and fades are in the session, for both, so that they can be changed.
        ending: of the sound files.
        depth, to_rate: as `write_audio` takes them.
        graph: what made the sounds, see `Tags`.

    Returns:
        The files: the stems, the mix, the session and the list of what they are.

    Raises:
        ValueError: see `check_stems`; or another number of names than tracks.
    """
    check_stems(folder, ending, depth, kind)
    if len(names) != len(scene.sounds):
        raise ValueError(
            f"There are {len(names)} names for {len(scene.sounds)} tracks, but one per track is expected; give as many."
        )
    rate = to_rate or scene.rate
    if scene.loop:  # before anything else, which would take their ends for ends
        scene = replace(scene, sounds=resample(scene.sounds, scene.rate, rate, loop=True), rate=rate)
    arranged = scene.arranged()
    mix = scene.mixed(arranged)
    volume = _volume(arranged.sum(dim=0), mix)
    dry = kind == "dry" and scene.places is not None
    stems = scene.sounds.mean(dim=1, keepdim=True) if dry else scene.placed()
    entries = [_entry(scene, row, file_name(row + 1, name, ending), name, dry) for row, name in enumerate(names)]
    tracks = [_session_track(entry, stems.shape[-1] / scene.rate, dry, scene.loop) for entry in entries]
    target = Path(os.path.realpath(folder))  # of a link, the folder it leads to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.parent / hidden_name()
    new.mkdir()
    try:
        for entry, stem in zip(entries, stems, strict=True):
            tags = Tags(entry["name"], entry["offset"], graph or {})
            write_audio(new / entry["file"], stem, scene.rate, depth=depth, to_rate=rate, tags=tags)
        mixed = f"mix{ending}"
        write_audio(new / mixed, mix, scene.rate, depth=depth, to_rate=rate, tags=Tags("mix", graph=graph or {}))
        (new / SESSION).write_text(session_text(tracks, rate, volume), encoding="utf-8")
        listed = {
            "version": 1,
            "kind": kind,
            "sample_rate": rate,
            "mix": mixed,
            "mix_gain_db": _decibels(volume),
            "session": SESSION,
            "loop": scene.loop,
            "stems": entries,
        }
        (new / LISTED).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()  # empty, as was checked; where it no longer is, this fails
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shown = Path(os.path.abspath(folder))
    return [shown / name for name in (*(entry["file"] for entry in entries), mixed, SESSION, LISTED)]


def file_name(number: int, name: str, ending: str) -> str:
    """`1, "Dog & cow"` -> `01_Dog_cow.wav`: letters and digits of any language, that every file system takes."""
    return f"{number:02d}_{plain_name(name) or 'sound'}{ending}"


def plain_name(name: str) -> str:
    """A name as part of a file's: letters, digits and underscores, not many; empty if it has none."""
    plain = re.sub(r"[^\w-]+", "_", name).strip("_")[:NAME_LETTERS]
    while len(plain.encode()) > 2 * NAME_LETTERS:
        plain = plain[:-1]
    return plain


def _entry(scene: Scene, row: int, file: str, name: str, dry: bool) -> dict[str, Any]:
    """What a track is, as the list has it."""
    track = scene.tracks[row]
    place = None if scene.places is None else scene.places[row]
    absent = scene.places is not None and place is None
    heard = {} if place is None else {"pan": scene.room.pan(place), "place_gain_db": _decibels(scene.room.gain(place))}
    return {
        "file": file,
        "name": printable(name),
        "seed": None if scene.seeds is None else scene.seeds[row],
        "box": None if scene.boxes is None else scene.boxes[row],
        "mask_size": None if scene.sizes is None else scene.sizes[row],
        "gain_db": track.gain,
        **{"pan": 0.0, "place_gain_db": 0.0, **heard},
        "distance": None if place is None else place.distance,
        "offset": track.offset,
        "fade_in": track.fade_in,
        "fade_out": track.fade_out,
        "muted": track.muted or absent,
        "solo": track.solo,
    }


def _session_track(entry: dict[str, Any], seconds: float, dry: bool, loop: bool) -> SessionTrack:
    same = ("name", "file", "offset", "fade_in", "fade_out", "muted", "solo")
    gain = entry["gain_db"] + (entry["place_gain_db"] if dry else 0.0)
    return SessionTrack(
        seconds=seconds,
        volume=10 ** (gain / 20),
        pan=entry["pan"] if dry else 0.0,
        panned=dry,
        loop=loop,
        **{key: entry[key] for key in same},
    )


def _volume(total: Tensor, mix: Tensor) -> float:
    """The gain of a mix over the sum of its tracks, a factor."""
    peak = float(total.abs().max())
    return float(mix.abs().max()) / peak if peak > 0 else 1.0


def _decibels(factor: float) -> float:
    return 20 * math.log10(max(factor, 1e-10))
