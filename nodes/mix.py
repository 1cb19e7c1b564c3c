"""Several sounds to tracks, with gains, and one mix."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..sounding.audio.files import write_audio
from ..sounding.audio.loudness import under_ceiling
from ..sounding.audio.resampling import resample
from ..sounding.audio.tracks import mix_tracks
from ..sounding.segment.points import number, shown
from .click.state import GAINS
from .host.conversions import audio_waveform
from .host.schemas import schema

SOUNDS = "sounding_sounds"  # key of the node's output for the page: files of the mix, then of each track
MAX_TRACKS = 256
FORM = "write one number of dB per track, such as 0, -6"


class SoundingMixTracks(io.ComfyNode):
    """Tracks with their gains, and their sum."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        gains = io.String.Input(
            "gains",
            default="",
            optional=True,
            tooltip="dB per track: connect the click node's gains, or write 0, -6, ... One number is for all tracks; "
            "none leaves them as they are.",
        )
        return schema(
            node_id="SoundingMixTracks",
            display_name="Sounding Mix Tracks",
            description="Applies a gain to each sound and mixes them without clipping. Plays the mix and every track "
            "in the node.",
            search_aliases=["mixer", "merge audio", "combine sounds", "volume", "batch of audio", "tracks"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Audio.Input(
                    "audio",
                    tooltip="One track per sound of the batch, at any sample rate, mono or stereo; a list is joined.",
                ),
                io.Audio.Input(
                    "audio_2",
                    optional=True,
                    tooltip="More tracks, such as those of another chain; they come after the others.",
                ),
                io.MultiType.Input(gains, types=[io.Float, io.Int]),
            ],
            outputs=[
                io.Audio.Output(
                    display_name="tracks",
                    tooltip="Each sound with its gain, as a batch: Save Audio writes one file per track.",
                ),
                io.Audio.Output(display_name="mix", tooltip="All tracks together, at most -1 dBTP: it cannot clip."),
            ],
        )

    @classmethod
    def execute(
        cls, audio: list[Any], gains: list[Any] | None = None, audio_2: list[Any] | None = None
    ) -> io.NodeOutput:
        """Apply the gains and sum."""
        waveform, rate = joined([*audio, *(audio_2 or [])])  # [B, channels, samples]
        decibels = read_gains(gains or [], len(waveform))
        factors = 10 ** (torch.tensor(decibels, device=waveform.device) / 20)
        tracks = under_ceiling(waveform * factors[:, None, None], rate)
        mix = mix_tracks(waveform, rate, decibels)[None]
        return io.NodeOutput(
            {"waveform": tracks, "sample_rate": rate},
            {"waveform": mix, "sample_rate": rate},
            ui={SOUNDS: [written(sound, rate) for sound in (*mix, *tracks)]},
        )


def written(sound: Tensor, rate: int) -> dict[str, str]:
    """Write a sound [channels, samples] to a file that the page can fetch.

    In some versions the host's own helper makes mono 3 dB quieter (it mixes it to stereo), and pages play only the
    first file of an output.
    """
    path = Path(folder_paths.get_temp_directory()) / f"sounding_mix_{uuid.uuid4().hex}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, sound, rate)
    return {"filename": path.name, "subfolder": "", "type": "temp"}


def joined(audio: list[Any]) -> tuple[Tensor, int]:
    """The sounds of one or several AUDIO as one batch [B, channels, samples], and its sample rate.

    All get the highest of their rates, and two channels if one of them has two; shorter ones are padded with silence.

    Raises:
        ValueError: sounds with more than two channels, or too many sounds.
    """
    checked = [audio_waveform(each) for each in audio]
    rate = max(rate for _, rate in checked)
    sounds = [resample(waveform, own, rate) for waveform, own in checked]
    channels = max(each.shape[1] for each in sounds)
    samples = max(each.shape[2] for each in sounds)
    if channels > 2:
        raise ValueError(f"audio has {channels} channels, but 1 or 2 are expected; make it mono or stereo.")
    if (total := sum(len(each) for each in sounds)) > MAX_TRACKS:
        raise ValueError(f"audio has {total} sounds, but at most {MAX_TRACKS} are expected; mix fewer at once.")
    padded = [torch.nn.functional.pad(each, (0, samples - each.shape[2])) for each in sounds]
    return torch.cat([each.expand(-1, channels, -1).to(padded[0].device) for each in padded]), rate


def read_gains(values: list[Any], tracks: int) -> list[float]:
    """The gain of each track in dB, from numbers and texts such as `0, -6` or `[0, -6]`.

    One number is for all tracks, none is 0 dB.

    Raises:
        ValueError: another number of gains than tracks, or one that is not a number of dB.
    """
    gains: list[float] = []
    for value in values:
        for each in _numbers(value):
            gain = number(each, *GAINS)
            if gain is None:
                raise ValueError(
                    f"gains has {shown(each)}, but dB from {GAINS[0]:g} to {GAINS[1]:g} are expected; {FORM}."
                )
            gains.append(gain)
    if len(gains) not in (0, 1, tracks):
        raise ValueError(
            f"There are {len(gains)} gains for {tracks} tracks, but one per track (or one for all) is expected; {FORM}."
        )
    return gains if len(gains) == tracks else [*gains, 0.0][:1] * tracks


def _numbers(value: Any) -> list[Any]:
    """The entries of a text, a list or a single value."""
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
            raise ValueError(f"gains is {shown(value)}, which is not JSON, but JSON is expected; {FORM}.") from None
        return found if isinstance(found, list) else [found]
    entries: list[Any] = []
    for word in re.split(r"[,;\s]+", value[:10_000].strip()):
        try:
            entries += [float(word)] if word else []
        except ValueError:
            entries.append(word)  # `read_gains` says what is wrong with it
    return entries
