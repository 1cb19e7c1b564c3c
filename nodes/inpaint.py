"""Parts of a sound made anew: within it, after its end, before its beginning."""

from __future__ import annotations

from typing import Any

import torch
from comfy import model_management
from comfy_api.latest import io

from ..sounding.batches import share_of_steps
from ..sounding.config import SAMPLERS
from ..sounding.diffusion import item_seeds
from ..sounding.editing import MAX_END, MAX_SECONDS, Edit
from ..sounding.grounding import Condition
from .host.conversions import audio_waveform
from .host.loaded import LoadedModel
from .host.progress import progress_bar
from .host.schemas import OWN, cfg_input, schema, seed_input, steps_input
from .host.wires import ConditionType, ModelType


class SoundingInpaint(io.ComfyNode):
    """A region of a sound anew, or more of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingInpaint",
            display_name="Sounding Inpaint / Extend",
            description="Makes a part of a sound anew, lets it go on beyond its end or begin earlier. All else stays "
            "as it is, sample by sample.",
            search_aliases=["audio inpainting", "outpaint", "extend", "continue", "regenerate region", "repair"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                ConditionType.Input(
                    "condition",
                    tooltip="What sounds in the new parts, of a Sounding Ground node; one, or one per sound.",
                ),
                io.Audio.Input("audio", tooltip="The sounds, at any sample rate, in mono or stereo; they stay so."),
                _seconds("start", 0.0, "From when it is made anew."),
                _seconds("end", 0.0, "Until when. 0: nothing within the sound is made anew."),
                _seconds("after", 0.0, "Seconds by which it goes on beyond its end."),
                _seconds("before", 0.0, "Seconds by which it begins earlier."),
                seed_input("The same seed makes the same parts. Item i of a batch uses seed + i."),
                steps_input(optional=True),
                cfg_input(optional=True),
                io.Combo.Input(
                    "scheduler",
                    options=[OWN, *SAMPLERS],
                    default=OWN,
                    optional=True,
                    tooltip="The sampler; checkpoint takes the checkpoint's own.",
                ),
                ConditionType.Input("negative", optional=True, tooltip="What is not to be heard in the new parts."),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The sounds with their new parts.")],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        condition: Condition,
        audio: dict[str, Any],
        start: float,
        end: float,
        after: float,
        before: float,
        seed: int,
        steps: int = 0,
        cfg: float = 0.0,
        scheduler: str = OWN,
        negative: Condition | None = None,
    ) -> io.NodeOutput:
        """Edit the sounds one after the other."""
        waveform, rate = audio_waveform(audio)
        count = len(waveform)
        for name, given in (("conditions", condition), ("negative conditions", negative)):
            if given is not None and len(given) not in (1, count):
                raise ValueError(
                    f"There are {len(given)} {name} for {count} sounds, but one for all, or one per sound, is expected."
                )
        edit = Edit((start, end) if end > 0 else None, after, before)
        on_step, made = progress_bar(), []
        for number, one in enumerate(item_seeds(seed, range(count))):
            made.append(
                model.edit(
                    waveform[number],
                    rate,
                    condition.row(number % len(condition)),
                    edit,
                    seed=one,
                    negative=None if negative is None else negative.row(number % len(negative)),
                    steps=steps or None,
                    cfg=cfg or None,
                    sampler=None if scheduler == OWN else scheduler,
                    on_step=share_of_steps(on_step, number, count),
                )
            )
        result = torch.stack(made).to(model_management.intermediate_device())
        return io.NodeOutput({"waveform": result, "sample_rate": rate})


def _seconds(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A time, or a length."""
    most = MAX_END if name in ("start", "end") else MAX_SECONDS
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.01, tooltip=tooltip)
