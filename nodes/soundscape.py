"""Several sounds to a stereo scene: each placed where its object is seen, with its gain, offset and fades."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sounding.audio.placing import Place, Room, place_tracks, places_of
from ..sounding.audio.scene import Scene, boxes_of
from ..sounding.audio.tracks import LOUDNESS_RANGE, MAX_OFFSET, Track
from ..sounding.encoders.patches import blended
from .host.conversions import checked_image, checked_mask
from .host.schemas import schema, text_input
from .host.wires import SceneType
from .tracks import arranged, gains_input, joined, mix_output, read_gains, read_numbers, read_tracks, seeds_of

SECONDS = (0.0, MAX_OFFSET)


class SoundingSoundscape(io.ComfyNode):
    """Tracks left or right, near or far, by their objects' masks, and their mix."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingSoundscape",
            display_name="Sounding Soundscape",
            description="Places each sound where its object is seen: left or right by its mask's centre, near or far "
            "by its mask's size and height, or by a depth map. Gives stereo tracks and their mix, and plays them.",
            search_aliases=["pan", "stereo", "spatial", "scene", "mixer", "distance", "depth", "tracks"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Audio.Input(
                    "audio", tooltip="One sound per object, at any sample rate, mono or stereo; a list is joined."
                ),
                io.Mask.Input(
                    "mask", tooltip="One mask per sound, in the same order. An empty mask is an absent object: silence."
                ),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="A depth map of the image, near is white. It decides on distances in place of the masks.",
                ),
                gains_input(),
                _amount("width", 1.0, "1 puts the image's edges into one channel, 0 leaves all in the middle."),
                _amount("distance", 0.5, "How much quieter and duller what is far is: 0 not at all, 1 as in the open."),
                io.Boolean.Input(
                    "delay",
                    default=False,
                    optional=True,
                    tooltip="The far ear hears each sound up to 0.66 ms later: for headphones.",
                ),
                _amount("reflections", 0.0, "Early reflections of a room; far objects have relatively more of them."),
                text_input("offsets", "Seconds after which each track begins: 0, 1.5, ... One number is for all."),
                text_input("mute", "Numbers of tracks that are silent: 2, 3"),
                text_input("solo", "Numbers of the only tracks that sound: 1"),
                _seconds("fade_in", "Seconds over which each track fades in."),
                _seconds("fade_out", "Seconds over which each track fades out."),
                io.Float.Input(
                    "loudness",
                    default=0.0,
                    min=LOUDNESS_RANGE[0],
                    max=0.0,
                    step=0.5,
                    optional=True,
                    tooltip="LUFS that the mix is brought to, -60 to -5 and as far as -1 dBTP allows; -23 is EBU R "
                    "128's. 0 leaves it as it is.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    optional=True,
                    tooltip="On: the sounds are loops of one length, and tracks and mix stay loops. They have no "
                    "offsets and fades.",
                ),
                io.Boolean.Input(
                    "blend",
                    default=False,
                    optional=True,
                    tooltip="On: there is one sound of all masks together, as by Sound This Object's blend. It is "
                    "placed where they are as a whole.",
                ),
            ],
            outputs=[
                io.Audio.Output(
                    display_name="tracks",
                    tooltip="Each sound at its place, in stereo, as a batch: Save Audio writes one file per track.",
                ),
                mix_output(),
                SceneType.Output(
                    display_name="scene", tooltip="Sounds and settings before mixing, for Sounding Save Stems."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        audio: list[Any],
        mask: list[Any],
        depth: list[Any] | None = None,
        gains: list[Any] | None = None,
        offsets: list[Any] | None = None,
        mute: list[Any] | None = None,
        solo: list[Any] | None = None,
        fade_in: list[Any] | None = None,
        fade_out: list[Any] | None = None,
        loudness: list[float] | None = None,
        loop: list[bool] | None = None,
        blend: list[bool] | None = None,
        **room: list[Any],
    ) -> io.NodeOutput:
        """Find the places, arrange the tracks and sum them."""
        looped = bool(loop and loop[0])
        waveform, rate = joined(audio, loop=looped)  # [B, channels, samples]
        count = len(waveform)
        times = {"offsets": offsets, "fade_in": fade_in, "fade_out": fade_out}
        columns = [
            read_gains(gains or [], count),
            *(read_numbers(name, given or [], count, SECONDS, "seconds", "0, 1.5") for name, given in times.items()),
            read_tracks("mute", mute or [], count),
            read_tracks("solo", solo or [], count),
        ]
        # Workflows of earlier versions, and some packs, have None in place of a widget's value.
        heard = Room(**{name: values[0] for name, values in room.items() if values and values[0] is not None})
        if blend and blend[0]:
            mask = [_blended(mask)]
        places = _places(mask, depth or [])
        placed = place_tracks(waveform, rate, places, heard, loop=looped)
        masks = [one for each in mask for one in checked_mask(each)]
        scene = Scene(
            waveform,
            rate,
            tracks=[Track(*each) for each in zip(*columns, strict=True)],
            places=places,
            room=heard,
            loudness=(loudness or [0.0])[0] or None,
            boxes=[box for one in masks for box in boxes_of(one[None])],
            sizes=[(one.shape[1], one.shape[0]) for one in masks],
            seeds=seeds_of(audio),
            loop=looped,
        )
        return arranged(placed, rate, scene.tracks, scene.loudness, scene)


def _blended(masks: list[Any]) -> Tensor:
    """All masks of a list of MASK as one.

    Raises:
        ValueError: they have several sizes.
    """
    found = [checked_mask(each) for each in masks]
    if len(sizes := {tuple(each.shape[1:]) for each in found}) > 1:
        raise ValueError(
            f"The masks have {len(sizes)} sizes, but one is expected of masks that are blended; resize them."
        )
    return blended(torch.cat(found))


def _places(masks: list[Any], depth: list[Any]) -> list[Place | None]:
    """Of all masks of a list of MASK; with a depth map, by that.

    Raises:
        ValueError: no masks, or several depth maps.
    """
    try:
        images = [checked_image(each) for each in depth if each is not None]
    except ValueError as error:
        raise ValueError(f"depth: {error}") from None
    maps: list[Tensor] = [one for each in images for one in each.mean(dim=-1).clamp(0, 1)]
    if len(maps) > 1:
        raise ValueError(f"depth has {len(maps)} images, but one is expected: the map of the image with the masks.")
    nearness = maps[0] if maps else None
    return [place for each in masks for place in places_of(checked_mask(each), nearness)]


def _amount(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A widget from 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.05, optional=True, tooltip=tooltip)


def _seconds(name: str, tooltip: str) -> io.Float.Input:
    """Seconds of a fade of all tracks."""
    return io.Float.Input(name, default=0.0, min=0.0, max=MAX_OFFSET, step=0.05, optional=True, tooltip=tooltip)
