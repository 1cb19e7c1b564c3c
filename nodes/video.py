"""Frames and masks of a video to the sound of what is masked in them."""

from __future__ import annotations

from typing import Any

from comfy import model_management
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..sounding.video import FRAME_RATES, VideoSound, check_frame_rate, check_length, frames_of
from .host.conversions import dense
from .host.folders import STARTER_LABEL
from .host.loaded import LoadedModel
from .host.progress import progress_bar, show_text
from .host.schemas import (
    OWN,
    cfg_input,
    level_input,
    masks_by,
    masks_input,
    schema,
    seed_input,
    starter_or_model_input,
    steps_input,
    text_input,
)
from .host.wires import SEEDS
from .sureness import report

TIMES_SHOWN = 4


class SoundingVideo(io.ComfyNode):
    """An object's sound, as long as the video, while the object is seen in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        low, high = FRAME_RATES
        return schema(
            node_id="SoundingVideo",
            display_name="Sounding Video to Audio",
            description="Makes the sound of the masked object in a video: it sounds while the object is seen, louder "
            "where it is larger, from where it is. It is not synchronised to what the object does.",
            search_aliases=[
                "video to audio",
                "foley",
                "SAM 2 tracking",
                "mask batch",
                "sound of a video",
                "soundtrack",
            ],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Image.Input("images", tooltip="The frames of a video of up to a minute, from Get Video Components."),
                io.Mask.Input(
                    "masks",
                    tooltip="One mask per frame, white on the object, as trackers (SAM 2) give them, at any size. "
                    "Where a mask is empty, the object is absent: silence.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=low,
                    max=high,
                    step=0.001,
                    tooltip="Frames per second: connect fps of Get Video Components.",
                ),
                seed_input("The same seed makes the same sound."),
                starter_or_model_input(),
                steps_input(optional=True),
                cfg_input(optional=True),
                io.Float.Input(
                    "follow_size",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How far loudness follows the object's size: 0 is not at all; at 1, half as far is 6 dB "
                    "louder.",
                ),
                io.Boolean.Input(
                    "place",
                    default=True,
                    optional=True,
                    tooltip="On: stereo, left or right as the object moves. Off: mono.",
                ),
                level_input(optional=True),
                text_input("text", "Which of its sounds is meant, such as 'barking twice'; may be left empty."),
                text_input(
                    "negative_text",
                    "What is not to be heard, such as 'music, voices'; may be left empty. Without effect at cfg 1.",
                ),
                masks_input(),
            ],
            outputs=[
                io.Audio.Output(display_name="audio", tooltip="As long as the video, 16 kHz, for Create Video."),
                io.Float.Output(
                    display_name="sureness",
                    tooltip="How sure the model is that it knows what is masked, 0 to 1; the lowest over the video. "
                    "Below 0.5 it may sound like something else.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        masks: Tensor,
        fps: float,
        seed: int,
        model: LoadedModel | None = None,
        steps: int = 0,
        cfg: float = 0.0,
        follow_size: float = 1.0,
        place: bool = True,
        level: bool = True,
        text: str = "",
        negative_text: str = "",
        by: str = OWN,
    ) -> io.NodeOutput:
        """Run `sounding.video.sound_video`."""
        images = dense(images, "images", "IMAGE, [frames, H, W, 3],")
        masks = dense(masks, "masks", "MASK, [frames, H, W],")
        frames = frames_of(images, masks)
        check_frame_rate(fps)
        check_length(len(images), fps)
        settings: dict[str, Any] = {"steps": steps, "cfg": cfg, "follow_size": follow_size, "place": place}
        settings |= {"level": level, "text": text, "negative_text": negative_text, "by": by}
        if model is None:  # see Sound This Object
            graph = GraphBuilder()
            loaded = graph.node("SoundingLoadModel", checkpoint=STARTER_LABEL)
            given = {"images": images, "masks": masks, "fps": fps, "seed": seed, "model": loaded.out(0)}
            inner = graph.node("SoundingVideo", **given, **settings)
            return io.NodeOutput(inner.out(0), inner.out(1), expand=graph.finalize())
        sound = model.sound_video(
            frames,
            fps,
            text=text.strip() or None,
            negative_text=negative_text.strip() or None,
            by=masks_by(by),
            steps=steps or None,
            cfg=cfg or None,
            seed=seed,
            follow=follow_size,
            place=place,
            level=level,
            on_step=progress_bar(),
        )
        waveform = sound.waveform.to(model_management.intermediate_device())
        audio = {"waveform": waveform, "sample_rate": sound.sample_rate, SEEDS: [seed]}
        sureness = sound.condition.sureness
        shown = report(cls, sound.condition.row(int(sureness.argmin())))
        shown["text"] = [_heard(sound), *shown["text"]]
        show_text(cls, "\n".join(shown["text"]))
        return io.NodeOutput(audio, float(sureness.min()), ui=shown)


def _heard(sound: VideoSound) -> str:
    """When the object sounds, and what was seen of it."""
    times = [f"{start:.1f} to {end:.1f} s" for start, end in sound.times[:TIMES_SHOWN]]
    more = len(sound.times) - len(times)
    said = ", ".join(times) + (f" and {more} times more" if more else "")
    return f"heard from {said}; {len(sound.looked_at)} of {sound.frames} frames looked at"
