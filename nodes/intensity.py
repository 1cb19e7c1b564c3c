"""Intensity over time: keyframes, or an object's size in a video, as the gain of sounds."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sounding.audio.curves import FRAME_RATES, curve_of_masks, read_curve, with_curve
from .host.conversions import audio_waveform, checked_mask
from .host.schemas import schema, text_input
from .host.wires import SEEDS


class SoundingIntensity(io.ComfyNode):
    """When and how much a sound is heard."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        low, high = FRAME_RATES
        return schema(
            node_id="SoundingIntensity",
            display_name="Sounding Intensity",
            description="Changes how loud a sound is over time: by keyframes, by how large its object is in a video, "
            "or both. Where the object is absent, there is silence.",
            search_aliases=["volume curve", "automation", "envelope", "keyframes", "fade", "video masks"],
            inputs=[
                io.Audio.Input("audio", tooltip="The sounds, at any sample rate, in mono or stereo."),
                text_input("curve", "Seconds and gains, such as 0:0, 1.5:1, 4:0.2; linear in between. Empty: 1."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Masks over time, one per frame of a video, white on the object. The larger it is, the "
                    "louder; where a mask is empty, there is silence.",
                ),
                io.Float.Input(
                    "frame_rate",
                    default=24.0,
                    min=low,
                    max=high,
                    step=0.01,
                    optional=True,
                    tooltip="Frames per second of the masks.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    optional=True,
                    tooltip="On: the sound is a loop, and the curve goes on from its last keyframe to its first.",
                ),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The sounds with their gain.")],
        )

    @classmethod
    def execute(
        cls,
        audio: dict[str, Any],
        curve: str = "",
        mask: Tensor | None = None,
        frame_rate: float = 24.0,
        loop: bool = False,
    ) -> io.NodeOutput:
        """Apply the curves."""
        waveform, rate = audio_waveform(audio)
        if curve.strip():
            waveform = with_curve(waveform, rate, read_curve(curve), loop=loop)
        if mask is not None:
            waveform = with_curve(waveform, rate, curve_of_masks(checked_mask(mask), frame_rate), loop=loop)
        seeds = {SEEDS: audio[SEEDS]} if SEEDS in audio else {}
        return io.NodeOutput({"waveform": waveform, "sample_rate": rate, **seeds})
