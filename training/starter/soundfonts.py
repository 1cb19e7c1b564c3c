"""Instruments of a SoundFont that play a few notes, by the `tinysoundfont` library.

It is needed for the starter's data only: `pip install --no-deps tinysoundfont` (its requirement, PyAudio, is for
loudspeakers). It trusts its files, and crashes on many that are damaged, so it runs in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sounding.utils.libraries import importing

if TYPE_CHECKING:
    from torch import Tensor

MOST_SECONDS = 120  # that a synthesizer may take, of which real ones take one or two
DECAY = 2.5  # seconds that the last note has to die away
VELOCITY = 100


@dataclass(frozen=True)
class Notes:
    """MIDI pitches that sound together, for `seconds`; without pitches it is a rest."""

    pitches: tuple[int, ...]
    seconds: float


def parse_notes(text: str) -> list[Notes]:
    """`"60:0.5 64+67:1 -:0.3"` is a C of half a second, an E and a G of one second together, and a rest.

    Raises:
        ValueError: it is written otherwise, a pitch is outside 0 to 127, or a length outside 0 to 10 seconds.
    """
    found = []
    for part in text.split():
        pitches, _, length = part.partition(":")
        try:
            notes = Notes(() if pitches == "-" else tuple(map(int, pitches.split("+"))), float(length))
        except ValueError:
            raise ValueError(f"{part[:50]!r} came, but notes as '60:0.5', '60+64:1' or '-:0.3' are expected.") from None
        if not all(0 <= pitch <= 127 for pitch in notes.pitches) or not 0 < notes.seconds <= 10:
            raise ValueError(f"{part[:50]!r} came, but pitches of 0 to 127 and up to 10 seconds are expected.")
        found.append(notes)
    if not any(notes.pitches for notes in found):
        raise ValueError(f"{text[:50]!r} has no notes.")
    return found


def play(soundfont: Path, bank: int, program: int, notes: list[Notes], sample_rate: int) -> Tensor:
    """The notes one after the other, played by an instrument: [samples] float, mono.

    Raises:
        FileNotFoundError: there is no such SoundFont.
        ValueError: it cannot be read, or has no such instrument.
    """
    if not soundfont.is_file():
        raise FileNotFoundError(f"{soundfont} is missing.")
    import torch  # not in the other process, which begins sooner without

    try:
        played = _process().submit(_played, soundfont, bank, program, notes, sample_rate).result()
    except BrokenProcessPool:
        _process.cache_clear()
        raise ValueError(
            f"{soundfont} cannot be played (the synthesizer crashed or came to no end); unpack its package again."
        ) from None
    return torch.from_numpy(played)


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _played(soundfont: Path, bank: int, program: int, notes: list[Notes], sample_rate: int) -> np.ndarray:
    """See `play`."""
    if hasattr(signal, "alarm"):  # it ends the process
        signal.alarm(MOST_SECONDS)
    synth, number = _opened(soundfont, sample_rate)
    try:
        synth.program_select(0, number, bank, program, bank == 128)
    except Exception as error:  # the library raises plain exceptions
        raise ValueError(f"{soundfont} has no instrument {bank}:{program} ({error}).") from None
    synth.sounds_off()  # what is left of the last notes; they fade within the second that is not kept
    synth.generate(sample_rate)
    pieces = []

    def render(seconds: float) -> None:
        stereo = np.frombuffer(bytes(synth.generate(round(seconds * sample_rate))), np.float32)
        pieces.append(stereo.reshape(-1, 2).mean(axis=1))

    for chord in notes:
        for pitch in chord.pitches:
            synth.noteon(0, pitch, VELOCITY)
        render(chord.seconds)
        for pitch in chord.pitches:
            synth.noteoff(0, pitch)
    render(DECAY)
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def _opened(soundfont: Path, sample_rate: int) -> tuple[Any, int]:
    """A synthesizer with one SoundFont, and the number by which it knows that; files of 150 MB take a while to open."""
    with importing("tinysoundfont"):
        import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=sample_rate)
    try:
        return synth, synth.sfload(str(soundfont))
    except Exception as error:  # the library raises plain exceptions
        raise ValueError(f"{soundfont} cannot be read as a SoundFont ({error}).") from None
