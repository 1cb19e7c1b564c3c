"""A session for REAPER: a text that names sound files and says when, where and how loud each is.

The form is what REAPER itself writes (`REAPER_PROJECT`, version 0.1), of which it reads any part and takes its own
defaults for the rest. It was checked against independent readers, not in REAPER.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..utils.messages import printable

SOURCES = {".wav": "WAVE", ".flac": "FLAC", ".ogg": "VORBIS", ".mp3": "MP3"}
SLOW_ENDS = 5  # REAPER's fade that begins and ends slowly, as half a Hann window does
BALANCE = 3  # its way of panning
CONSTANT_POWER, NO_LAW = math.sqrt(0.5), 1.0  # gain of both channels in the middle


@dataclass(frozen=True)
class SessionTrack:
    """One track with one sound file."""

    name: str
    file: str  # relative to the session
    seconds: float  # length of the file
    volume: float = 1.0  # a factor
    pan: float = 0.0  # -1 is left, 1 is right
    panned: bool = True  # by the constant-power law; what is in stereo already is left as it is
    offset: float = 0.0  # seconds
    fade_in: float = 0.0
    fade_out: float = 0.0
    muted: bool = False
    solo: bool = False
    loop: bool = False  # repeats where its end is dragged further


def session_text(tracks: Sequence[SessionTrack], rate: int, volume: float = 1.0) -> str:
    """The session as a text.

    Args:
        tracks: what it holds, in order.
        rate: in Hz.
        volume: a factor, of the mix.

    Raises:
        ValueError: a file of a kind that a session cannot name.
    """
    lines = [
        '<REAPER_PROJECT 0.1 "7.0" 0',
        f"  SAMPLERATE {rate} 1 0",
        f"  PANLAW {CONSTANT_POWER:.10g}",
        f"  PANMODE {BALANCE}",
        "  MASTER_NCH 2 2",
        f"  MASTER_VOLUME {volume:.10g} 0 -1 -1 1",
    ]
    for track in tracks:
        lines += [f"  {line}" for line in _track(track)]
    return "\n".join([*lines, ">", ""])


def _track(track: SessionTrack) -> list[str]:
    ending = PurePosixPath(track.file).suffix.lower()
    if ending not in SOURCES:
        raise ValueError(f"{track.file} ends in {ending!r}, but one of {', '.join(SOURCES)} is expected in a session.")
    return [
        "<TRACK",
        f"  NAME {_quoted(track.name)}",
        f"  VOLPAN {track.volume:.10g} {track.pan:.10g} {CONSTANT_POWER if track.panned else NO_LAW:.10g} -1 1",
        f"  MUTESOLO {int(track.muted)} {int(track.solo)} 0",
        "  NCHAN 2",
        "  <ITEM",
        f"    POSITION {track.offset:.10g}",
        f"    LENGTH {track.seconds:.10g}",
        f"    LOOP {int(track.loop)}",
        f"    FADEIN {SLOW_ENDS} {track.fade_in:.10g} 0 {SLOW_ENDS} 0 0 0",
        f"    FADEOUT {SLOW_ENDS} {track.fade_out:.10g} 0 {SLOW_ENDS} 0 0 0",
        f"    NAME {_quoted(track.name)}",
        "    VOLPAN 1 0 1 -1",
        f"    <SOURCE {SOURCES[ending]}",
        f"      FILE {_quoted(track.file)}",
        "    >",
        "  >",
        ">",
    ]


def _quoted(text: str) -> str:
    """In whichever quotes the text does not have."""
    line = printable(text)
    for quote in ('"', "'", "`"):
        if quote not in line:
            return f"{quote}{line}{quote}"
    return '"' + line.replace('"', "'") + '"'
