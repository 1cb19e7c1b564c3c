"""All steps in one node: image and mask to sound."""

from __future__ import annotations

from comfy import model_management
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..sounding.audio.mel import MelSpectrogram
from ..sounding.diffusion import item_seeds
from ..sounding.encoders.patches import blended
from ..sounding.images.drawing import mel_image
from .host.conversions import checked_image, checked_mask
from .host.folders import STARTER_LABEL
from .host.loaded import LoadedModel
from .host.progress import progress_bar
from .host.schemas import (
    OWN,
    cfg_input,
    fade_input,
    fade_seconds,
    level_input,
    loop_input,
    masks_by,
    masks_input,
    schema,
    seconds_input,
    seed_input,
    starter_or_model_input,
    steps_input,
    text_input,
)
from .host.wires import SEEDS
from .sureness import report
from .variation import STRENGTH, read_variations, variation_inputs


class SoundingThisObject(io.ComfyNode):
    """Image and mask to sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingThisObject",
            display_name="Sound This Object",
            description="Makes the sound of the masked object in an image. Works out of the box, without a download.",
            search_aliases=["image to audio", "sound effect", "foley", "sounding objects"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Image.Input("image", tooltip="The image."),
                io.Mask.Input(
                    "mask",
                    tooltip="White on the object that is to sound, at any size. Each mask of a batch makes a sound of "
                    "its own.",
                ),
                seconds_input(),
                seed_input(),
                starter_or_model_input(),
                steps_input(optional=True),
                cfg_input(optional=True),
                level_input(optional=True),
                fade_input(),
                text_input("text", "Which of its sounds is meant, such as 'barking twice'; may be left empty."),
                text_input(
                    "negative_text",
                    "What is not to be heard, such as 'music, voices'; may be left empty. Without effect at cfg 1.",
                ),
                io.Mask.Input(
                    "negative_mask",
                    optional=True,
                    tooltip="White on something in the image that is not to be heard. Without effect at cfg 1.",
                ),
                masks_input(),
                loop_input(),
                *variation_inputs(),
                io.Boolean.Input(
                    "blend",
                    default=False,
                    optional=True,
                    tooltip="On: all masks of a batch make one sound together, as one mask of all their objects; loud "
                    "ones may outweigh others.",
                ),
            ],
            outputs=[
                io.Audio.Output(display_name="audio", tooltip="Mono, 16 kHz; a batch has one sound per mask."),
                io.Image.Output(display_name="picture", tooltip="The sound's mel spectrogram."),
                io.Float.Output(
                    display_name="sureness",
                    tooltip="How sure the model is that it knows what is masked, 0 to 1; the lowest over several "
                    "masks. Below 0.5 it may sound like something else.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        mask: Tensor,
        seconds: float,
        seed: int,
        model: LoadedModel | None = None,
        steps: int = 0,
        cfg: float = 0.0,
        level: bool = True,
        fade_out: float = -1.0,
        text: str = "",
        negative_text: str = "",
        negative_mask: Tensor | None = None,
        by: str = OWN,
        loop: bool = False,
        variation: str = "",
        variation_strength: float = STRENGTH,
        blend: bool = False,
    ) -> io.NodeOutput:
        """Run `SoundingModel.generate`."""
        image, mask = checked_image(image), checked_mask(mask)
        if blend:
            mask = blended(mask)
        negative = None if negative_mask is None else checked_mask(negative_mask)
        if model is None:
            # Expanded to a loader and this node, so that the host keeps the starter in its cache of outputs and another
            # seed does not read it again.
            graph = GraphBuilder()
            loaded = graph.node("SoundingLoadModel", checkpoint=STARTER_LABEL)
            inner = graph.node(
                "SoundingThisObject",
                image=image,
                mask=mask,
                seconds=seconds,
                seed=seed,
                model=loaded.out(0),
                steps=steps,
                cfg=cfg,
                level=level,
                fade_out=fade_out,
                text=text,
                negative_text=negative_text,
                by=by,
                loop=loop,
                variation=variation,
                variation_strength=variation_strength,
                **({} if negative is None else {"negative_mask": negative}),
            )
            return io.NodeOutput(inner.out(0), inner.out(1), inner.out(2), expand=graph.finalize())

        sound = model.generate(
            image=image,
            mask=mask,
            text=text.strip() or None,
            negative_mask=negative,
            negative_text=negative_text.strip() or None,
            by=masks_by(by),
            seconds=seconds,
            steps=steps or None,
            cfg=cfg or None,
            seed=seed,
            level=level,
            fade_out=fade_seconds(fade_out),
            loop=loop,
            variation=read_variations(variation, range(max(len(image), len(mask)))),
            variation_strength=variation_strength,
            on_step=progress_bar(),
        )
        waveform = sound.waveform.to(model_management.intermediate_device())  # [B, 1, samples]
        mel = MelSpectrogram(model.config.audio).to(waveform.device)(waveform[:, 0])
        seeds = item_seeds(seed, range(len(waveform)))
        audio = {"waveform": waveform, "sample_rate": model.config.audio.sample_rate, SEEDS: seeds}
        return io.NodeOutput(
            audio,
            mel_image(mel).to(model_management.intermediate_device()),
            float(sound.sureness.min()),
            ui=report(cls, sound.condition),
        )
