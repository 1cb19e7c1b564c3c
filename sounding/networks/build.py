"""AudioLDM's networks, built from the configuration with classes of diffusers and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import SoundingConfig
from ..utils.libraries import importing
from .attention import without_queries
from .convolution import shortened
from .few_steps import FewSteps
from .vocos import Vocos

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import SpeechT5HifiGan


def build_vae(config: SoundingConfig) -> AutoencoderKL:
    """Mel [B, 1, T, 64] <-> latents [B, 8, T/4, 16] (section 3.1, "Mel-spectrograms compression")."""
    with importing("diffusers"):
        from diffusers import AutoencoderKL

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


def build_unet(config: SoundingConfig) -> UNet2DConditionModel:
    """Noise predictor over [B, 8, T/4, 16], cross-attending to the condition [B, N, D] (section 4.1).

    With `unet.film_width` it is AudioLDM's own U-Net, with the same call signature.
    """
    with importing("diffusers"):
        from diffusers import UNet2DConditionModel

    unet, attended = config.unet, len(config.unet.channels) - 1
    film = unet.film_width > 0
    kind = UNet2DConditionModel
    if film:
        from .film import FilmUNet

        kind = FilmUNet
    elif unet.patch_size > 1 or unet.modulated:
        from .variants import VariedUNet

        kind = VariedUNet
    values = config.vae.latent_channels * unet.patch_size**2  # per position
    network = kind(
        in_channels=values,
        out_channels=values,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * attended,
        up_block_types=("CrossAttnUpBlock2D",) * attended + ("UpBlock2D",),
        block_out_channels=unet.channels,
        layers_per_block=unet.layers,
        norm_num_groups=unet.norm_groups,
        cross_attention_dim=unet.channels if film else config.grounding.condition_width,
        # In diffusers `attention_head_dim` is the number of heads, as its own comment says; here heads have a width.
        attention_head_dim=unet.heads or tuple(channels // unet.head_width for channels in unet.channels),
        class_embed_type="simple_projection" if film else "projection" if unet.modulated else None,
        projection_class_embeddings_input_dim=config.grounding.condition_width if film or unet.modulated else None,
        class_embeddings_concat=film,
        resnet_time_scale_shift="scale_shift" if unet.modulated else "default",
    )
    if unet.patch_size > 1:
        network.patch_size = unet.patch_size
    if unet.few_steps:
        network.few_steps = FewSteps(network, unet.few_steps_rank)
    return without_queries(network.eval())


def build_vocoder(config: SoundingConfig) -> SpeechT5HifiGan | Vocos:
    """Mel [B, T, 64] -> waveform [B, T * hop]: the paper's HiFi-GAN generator (section 3.1, "Waveform reconstruction"),
    or Vocos.
    """
    if config.vocoder.network == "vocos":
        return Vocos(config.vocoder, config.audio).eval()
    with importing("transformers"):
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vocoder = config.vocoder
    network = SpeechT5HifiGan(
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
    )
    return shortened(network.eval())
