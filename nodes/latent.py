"""Latents: empty ones, those of a sound, and the sampler that turns noise into a sound's latent."""

from __future__ import annotations

from typing import Any

import torch
from comfy import model_management
from comfy_api.latest import io

from ..sounding.audio.resampling import resample
from ..sounding.config import SAMPLERS
from ..sounding.diffusion import draw_varied_noise, item_seeds
from ..sounding.grounding import Condition
from .host.conversions import (
    audio_waveform,
    latent_batch_indices,
    latent_loop,
    latent_noise_mask,
    latent_samples,
    with_samples,
)
from .host.loaded import LoadedModel
from .host.progress import progress_bar
from .host.schemas import OWN, cfg_input, loop_input, schema, seconds_input, seed_input, steps_input
from .host.wires import SEEDS, ConditionType, ModelType
from .variation import STRENGTH, read_variations, variation_inputs


class SoundingEmptyLatent(io.ComfyNode):
    """Zeros of the shape of a sound's latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingEmptyLatent",
            display_name="Sounding Empty Latent",
            description="An empty latent for sounds of a given length.",
            search_aliases=["sound length", "seconds", "duration"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model: it knows the latent's shape."),
                seconds_input(),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Variants of one selection. Several masks make a batch by themselves: leave 1 for them.",
                ),
                loop_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="An empty latent, for Sounding Sampler.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, seconds: float, batch_size: int, loop: bool = False) -> io.NodeOutput:
        """Make zeros, and note what was asked for: sampler, decoder and vocoder read it."""
        config = model.config
        shape = (batch_size, config.vae.latent_channels, config.latent_frames(seconds), config.latent_bands)
        samples = torch.zeros(shape, device=model_management.intermediate_device())
        return io.NodeOutput({"samples": samples, "type": "audio", "seconds": seconds, "loop": loop})


class SoundingSampler(io.ComfyNode):
    """Noise to a latent, by diffusion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingSampler",
            display_name="Sounding Sampler",
            description="Makes a sound's latent out of noise, guided by the selection.",
            search_aliases=["sound sampler", "audio diffusion", "generate sound"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                ConditionType.Input("condition", tooltip="What is to sound, from a Sounding Ground node."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Sounding Empty Latent, or Sounding Encode Audio to vary a sound. With a noise mask "
                    "(Set Latent Noise Mask) only what is white in it is generated anew.",
                ),
                seed_input(),
                steps_input(),
                cfg_input(),
                io.Combo.Input(
                    "scheduler",
                    options=[OWN, *SAMPLERS],
                    default=OWN,
                    tooltip="checkpoint takes the checkpoint's own. ddim is the paper's, with 200 steps; dpm++ needs "
                    "fewer steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from pure noise. Lower values keep more of the sound in the latent.",
                ),
                ConditionType.Input(
                    "negative",
                    optional=True,
                    tooltip="What is not to be heard, from a Sounding Ground node: guidance leads away from it. No "
                    "effect at cfg 1.",
                ),
                *variation_inputs(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The sound's latent, for Sounding Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        condition: Condition,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        scheduler: str,
        denoise: float,
        negative: Condition | None = None,
        variation: str = "",
        variation_strength: float = STRENGTH,
    ) -> io.NodeOutput:
        """Draw the noise of each item and run the sampler; what the latent's noise mask leaves out stays as it is."""
        config = model.config
        samples = latent_samples(latent, config)
        if condition.tokens.shape[-1] != config.grounding.condition_width:
            raise ValueError(
                f"condition is {condition.tokens.shape[-1]} wide, but this model expects "
                f"{config.grounding.condition_width}; use one model for all nodes of a chain."
            )
        rows = max(len(condition), len(samples))
        indices = latent_batch_indices(latent, rows)
        variations = read_variations(variation, indices)
        noise = draw_varied_noise(tuple(samples.shape[1:]), item_seeds(seed, indices), variations, variation_strength)
        renew = latent_noise_mask(latent, rows)
        frames = samples.shape[2] * config.vae.stride
        sampled = model.on_device("grounding", "unet", batch=rows, frames=frames).sample(
            condition,
            noise,
            negative=negative,
            steps=steps or None,
            cfg=cfg or None,
            sampler=None if scheduler == OWN else scheduler,
            denoise=denoise,
            latents=samples.expand(rows, -1, -1, -1) if len(samples) in (1, rows) else samples,
            renew=renew,
            loop=latent_loop(latent),
            on_step=progress_bar(),
        )
        made = with_samples(latent, sampled.to(model_management.intermediate_device()))
        return io.NodeOutput(made | {SEEDS: item_seeds(seed, indices)})


class SoundingEncodeAudio(io.ComfyNode):
    """A sound to its latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingEncodeAudio",
            display_name="Sounding Encode Audio",
            description="Turns a sound into a latent, to vary it with a sampler at denoise below 1.",
            search_aliases=["audio to audio", "audio vae encode"],
            inputs=[
                ModelType.Input("model", tooltip="From Sounding Load Model."),
                io.Audio.Input(
                    "audio", tooltip="Any rate and any number of channels: it is mixed to mono and resampled."
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The sound's latent, for Sounding Sampler.")],
        )

    @classmethod
    def execute(cls, model: LoadedModel, audio: dict[str, Any]) -> io.NodeOutput:
        """Mix down, resample and run the VAE's encoder."""
        config = model.config
        rate = config.audio.sample_rate
        waveform, audio_rate = audio_waveform(audio)
        mono = resample(waveform.mean(dim=1), audio_rate, rate)  # [B, samples]
        seconds = mono.shape[-1] / rate
        frames = config.latent_frames(seconds) * config.vae.stride
        samples = model.on_device("vae", batch=len(mono), frames=frames).encode(mono)
        samples = samples.to(model_management.intermediate_device())
        return io.NodeOutput({"samples": samples, "type": "audio", "seconds": seconds})
