"""From a latent to a mel spectrogram, and from that to a waveform."""

from __future__ import annotations

from typing import Any

import torch
from comfy import model_management
from comfy_api.latest import io

from ..sounding.audio.loudness import level as level_sounds
from ..sounding.batches import one_by_one
from ..sounding.images.drawing import mel_image
from .host.conversions import latent_loop, latent_samples, latent_seconds, latent_seeds
from .host.loaded import LoadedModel
from .host.schemas import fade_input, fade_seconds, level_input, schema
from .host.wires import SEEDS, Mel, MelType, ModelType


class SoundingDecode(io.ComfyNode):
    """Latents to mel spectrograms."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingDecode",
            display_name="Sounding Decode",
            description="Turns a latent into a mel spectrogram, and draws it as an image.",
            search_aliases=["mel spectrogram", "audio vae decode"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                io.Latent.Input("latent", tooltip="From Sounding Sampler."),
            ],
            outputs=[
                MelType.Output(display_name="mel", tooltip="The spectrogram, for Sounding Vocode."),
                io.Image.Output(
                    display_name="picture", tooltip="Time from left to right, low frequencies at the bottom."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: LoadedModel, latent: dict[str, Any]) -> io.NodeOutput:
        """Run the VAE's decoder."""
        config = model.config
        samples, loop = latent_samples(latent, config), latent_loop(latent)
        frames = samples.shape[2] * config.vae.stride
        mel = model.on_device("vae", batch=len(samples), frames=frames).decode(samples, loop=loop)
        mel = mel.to(model_management.intermediate_device())
        picture = mel_image(mel).to(mel.device)
        return io.NodeOutput(Mel(mel, latent_seconds(latent, config), loop, latent_seeds(latent)), picture)


class SoundingVocode(io.ComfyNode):
    """Mel spectrograms to waveforms."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingVocode",
            display_name="Sounding Vocode",
            description="Turns a mel spectrogram into sound, of exactly the length that was asked for.",
            search_aliases=["vocoder", "hifi-gan", "mel to audio"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                MelType.Input("mel", tooltip="From Sounding Decode."),
                level_input(optional=True),
                fade_input(),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="Mono, 16 kHz; one sound per item of the batch.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, mel: Mel, level: bool = True, fade_out: float = -1.0) -> io.NodeOutput:
        """Run the vocoder, and bring all sounds to the same loudness."""
        batch, frames = mel.mel.shape[:2]
        waveform = model.on_device("vocoder", batch=batch, frames=frames).vocode(mel.mel, mel.seconds, loop=mel.loop)
        rate, fade = model.config.audio.sample_rate, fade_seconds(fade_out)
        if level:
            leveled = [level_sounds(one, rate, fade, loop=mel.loop) for (one,) in one_by_one(waveform)]
            waveform = torch.cat(leveled)
        waveform = waveform.to(model_management.intermediate_device())
        seeds = {} if mel.seeds is None else {SEEDS: mel.seeds}
        return io.NodeOutput({"waveform": waveform, "sample_rate": rate, **seeds})
