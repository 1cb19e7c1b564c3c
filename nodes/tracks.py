"""What nodes of several tracks share: their sounds as one batch, numbers per track, and files that the page plays."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..sounding.audio.files import write_audio
from ..sounding.audio.loudness import under_ceiling
from ..sounding.audio.resampling import resample
from ..sounding.audio.tracks import Track, arrange_tracks, check_length, mix_tracks
from ..sounding.segment.points import number, shown
from .click.state import GAINS
from .host.conversions import audio_waveform
from .host.wires import SEEDS

SOUNDS = "sounding_sounds"  # key of a node's output for the page: files of the mix, then of each track
MAX_TRACKS = 256
FLAC_RATE, PLAYED_RATE = 655_350, 192_000  # Hz: what FLAC has at most, and what the page gets in place of more


def written(sound: Tensor, rate: int) -> dict[str, str]:
    """Write a sound [channels, samples] to a file that the page can fetch.

    In some versions the host's own helper makes mono 3 dB quieter (it mixes it to stereo), and pages play only the
    first file of an output.
    """
    path = Path(folder_paths.get_temp_directory()) / f"sounding_mix_{uuid.uuid4().hex}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    played = rate if rate <= FLAC_RATE else PLAYED_RATE
    write_audio(path, resample(sound, rate, played), played)
    return {"filename": path.name, "subfolder": "", "type": "temp"}


def joined(audio: list[Any], *, loop: bool = False) -> tuple[Tensor, int]:
    """The sounds of one or several AUDIO as one batch [B, channels, samples], and its sample rate.

    All get the highest of their rates, and two channels if one of them has two; shorter ones are padded with silence,
    unless they are loops, whose ends go on with their beginnings.

    Raises:
        ValueError: no sounds, ones with more than two channels, loops of several lengths, or more than memory has room
            for.
    """
    if not audio:
        raise ValueError("audio is an empty list, but at least one sound is expected; connect a node that gives some.")
    checked = [audio_waveform(each) for each in audio]
    rate = max(rate for _, rate in checked)
    channels = max(each.shape[1] for each, _ in checked)
    if channels > 2:
        raise ValueError(f"audio has {channels} channels, but 1 or 2 are expected; make it mono or stereo.")
    if (total := sum(len(each) for each, _ in checked)) > MAX_TRACKS:
        raise ValueError(f"audio has {total} sounds, but at most {MAX_TRACKS} are expected; mix fewer at once.")
    check_length(total, channels, max(-(-each.shape[2] * rate // own) for each, own in checked), rate)
    sounds = [resample(waveform, own, rate, loop=loop) for waveform, own in checked]
    samples = max(each.shape[2] for each in sounds)
    if loop and (short := min(each.shape[2] for each in sounds)) < samples:
        raise ValueError(
            f"The loops have {short / rate:g} to {samples / rate:g} s, but one length is expected of loops that are "
            "mixed; make all of one length, or switch loop off."
        )
    padded = [torch.nn.functional.pad(each, (0, samples - each.shape[2])) for each in sounds]
    return torch.cat([each.expand(-1, channels, -1).to(padded[0].device) for each in padded]), rate


def seeds_of(audio: list[Any]) -> list[int | None]:
    """The seed of each sound of several AUDIO, as far as the nodes that made them noted it."""
    found: list[int | None] = []
    for each in audio:
        count, seeds = len(each["waveform"]), each.get(SEEDS)
        found += seeds if isinstance(seeds, list) and len(seeds) == count else [None] * count
    return found


def gains_input() -> io.MultiType.Input:
    """dB per track, as numbers of another node or a text."""
    text = io.String.Input(
        "gains",
        default="",
        optional=True,
        tooltip="dB per track: connect the click node's gains, or write 0, -6, ... One number is for all tracks; "
        "none leaves them as they are.",
    )
    return io.MultiType.Input(text, types=[io.Float, io.Int])


def mix_output() -> io.Audio.Output:
    """All tracks as one sound."""
    return io.Audio.Output(display_name="mix", tooltip="All tracks together, at most -1 dBTP: it cannot clip.")


def arranged(
    waveform: Tensor, rate: int, settings: Sequence[Track], loudness: float | None = None, *more: Any
) -> io.NodeOutput:
    """The outputs of a node: sounds [B, channels, samples] as tracks with their settings and as a mix, then `more`; the
    page plays both.
    """
    sounds = arrange_tracks(waveform, rate, settings)
    tracks, mix = under_ceiling(sounds, rate), mix_tracks(sounds, rate, loudness=loudness)[None]
    return io.NodeOutput(
        {"waveform": tracks, "sample_rate": rate},
        {"waveform": mix, "sample_rate": rate},
        *more,
        ui={SOUNDS: [written(sound, rate) for sound in (*mix, *tracks)]},
    )


def read_gains(values: list[Any], tracks: int) -> list[float]:
    """The gain of each track in dB, from numbers and texts such as `0, -6` or `[0, -6]`.

    One number is for all tracks, none is 0 dB.

    Raises:
        ValueError: another number of gains than tracks, or one that is not a number of dB.
    """
    return read_numbers("gains", values, tracks, GAINS, "dB", "0, -6")


def read_numbers(
    name: str, values: list[Any], tracks: int, bounds: tuple[float, float], unit: str, example: str
) -> list[float]:
    """A number per track out of numbers and texts; one is for all tracks, none is 0.

    Raises:
        ValueError: another count than tracks, or something that is no number within the bounds.
    """
    form = f"write one number of {unit} per track, such as {example}"
    found: list[float] = []
    for each in entries_of(name, values, form):
        value = number(each, *bounds)
        if value is None:
            raise ValueError(
                f"{name} has {shown(each)}, but {unit} from {bounds[0]:g} to {bounds[1]:g} are expected; {form}."
            )
        found.append(value)
    if len(found) not in (0, 1, tracks):
        raise ValueError(
            f"There are {len(found)} {name} for {tracks} tracks, but one per track (or one for all) is expected; "
            f"{form}."
        )
    return found if len(found) == tracks else [*found, 0.0][:1] * tracks


def read_tracks(name: str, values: list[Any], tracks: int) -> list[bool]:
    """Whether each track is among the numbers that are given, counted from 1.

    Raises:
        ValueError: something that is no track's number.
    """
    form = "write numbers of tracks, such as 1, 3"
    found = set()
    for each in entries_of(name, values, form):
        value = number(each, 1, tracks)
        if value is None or value % 1:
            raise ValueError(f"{name} has {shown(each)}, but tracks 1 to {tracks} are expected; {form}.")
        found.add(int(value))
    return [place + 1 in found for place in range(tracks)]


def entries_of(name: str, values: list[Any], form: str) -> list[Any]:
    """The entries of all texts, lists and single values."""
    return [entry for value in values for entry in _entries(name, value, form)]


def _entries(name: str, value: Any, form: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return [value]
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value[:10_000])
        except (ValueError, RecursionError):
            raise ValueError(f"{name} is {shown(value)}, which is not JSON, but JSON is expected; {form}.") from None
        return found if isinstance(found, list) else [found]
    entries: list[Any] = []
    for word in re.split(r"[,;\s]+", value[:10_000].strip()):
        try:
            entries += [float(word)] if word else []
        except ValueError:
            entries.append(word)  # whoever reads them says what is wrong with it
    return entries
