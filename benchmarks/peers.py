"""diffusers' and transformers' networks of a configuration, which ours are compared with."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sounding.config import SoundingConfig


def unet_peer(config: SoundingConfig) -> Any:
    """`diffusers.UNet2DConditionModel`; with FiLM it takes the condition [B, D] as `class_labels`."""
    unet, attended, film = config.unet, len(config.unet.channels) - 1, config.unet.film_width > 0
    return UNet2DConditionModel(
        in_channels=config.vae.latent_channels,
        out_channels=config.vae.latent_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * attended,
        up_block_types=("CrossAttnUpBlock2D",) * attended + ("UpBlock2D",),
        block_out_channels=unet.channels,
        layers_per_block=unet.layers,
        norm_num_groups=unet.norm_groups,
        cross_attention_dim=unet.channels if film else config.grounding.condition_width,
        # In diffusers `attention_head_dim` is the number of heads, as its own comment says; here heads have a width.
        attention_head_dim=unet.heads or tuple(channels // unet.head_width for channels in unet.channels),
        class_embed_type="simple_projection" if film else None,
        projection_class_embeddings_input_dim=unet.film_width or None,
        class_embeddings_concat=film,
    ).eval()


def vae_peer(config: SoundingConfig) -> Any:
    """`diffusers.AutoencoderKL`."""
    vae, stages = config.vae, len(config.vae.channels)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=vae.channels,
        layers_per_block=vae.layers,
        latent_channels=vae.latent_channels,
        norm_num_groups=vae.norm_groups,
        sample_size=config.audio.mel_bands,
        scaling_factor=vae.scale,
    ).eval()


def vocoder_peer(config: SoundingConfig) -> Any:
    """`transformers.SpeechT5HifiGan`."""
    vocoder = config.vocoder
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=config.audio.mel_bands,
            sampling_rate=config.audio.sample_rate,
            upsample_initial_channel=vocoder.initial_channels,
            upsample_rates=list(vocoder.rates),
            upsample_kernel_sizes=list(vocoder.rate_kernels),
            resblock_kernel_sizes=list(vocoder.kernels),
            resblock_dilation_sizes=[list(vocoder.dilations)] * len(vocoder.kernels),
            normalize_before=vocoder.normalize,
        )
    ).eval()
