"""Several sounds to tracks, with gains, and one mix."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sounding.audio.loudness import under_ceiling
from ..sounding.audio.tracks import mix_tracks
from .host.schemas import schema
from .tracks import SOUNDS, joined, read_gains, written


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
