"""Several sounds to tracks, with gains, and one mix."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sounding.audio.tracks import Track
from .host.schemas import schema
from .tracks import arranged, gains_input, joined, mix_output, read_gains


class SoundingMixTracks(io.ComfyNode):
    """Tracks with their gains, and their sum."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
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
                gains_input(),
            ],
            outputs=[
                io.Audio.Output(
                    display_name="tracks",
                    tooltip="Each sound with its gain, as a batch: Save Audio writes one file per track.",
                ),
                mix_output(),
            ],
        )

    @classmethod
    def execute(
        cls, audio: list[Any], gains: list[Any] | None = None, audio_2: list[Any] | None = None
    ) -> io.NodeOutput:
        """Apply the gains and sum."""
        waveform, rate = joined([*audio, *(audio_2 or [])])  # [B, channels, samples]
        return arranged(waveform, rate, [Track(gain) for gain in read_gains(gains or [], len(waveform))])
