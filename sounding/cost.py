"""Estimates of what a configuration needs, before anything is built: numbers in their ranges can be too large together.

They are within a factor of two or so, which is enough to tell a model from a mistake.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import SoundingConfig

WINDOW_SECONDS = 20.48  # of sound that the networks process at once; longer sounds are processed in windows
FLOAT = 4  # bytes
LIVE = 4  # feature maps of the widest layer that are alive at once
MOST_ACTIVATIONS = 2 * 2**30  # bytes for one window; the paper's size takes 0.5 GB
MOST_PARAMETERS = 4_000_000_000  # the paper's size has 0.5 billion
MOST_TOKENS = 32_768  # of one window that attend to each other; the paper's size has 2048


def parameters(config: SoundingConfig) -> dict[str, int]:
    """Parameters of each part but the patch tower, whose size is given by its name."""
    unet, vae, query = config.unet, config.vae, config.query
    words = 50_265 * query.hidden if query.tower == "clap" else 0
    stages = [(query.hidden << stage, depth) for stage, depth in enumerate(query.depths)]
    return {
        "query": words
        + (
            sum(12 * w * w * d for w, d in stages)
            if query.tower == "clap_audio"
            else 12 * query.hidden**2 * query.layers
        ),
        "grounding": 3 * config.patches.width * config.grounding.key_width
        + config.grounding.mlp_width * (config.grounding.key_width + config.grounding.condition_width),
        "unet": sum(width**2 * unet.layers * 60 for width in unet.channels),
        "vae": sum(width**2 * vae.layers * 36 for width in vae.channels),
        "vocoder": _vocoder_parameters(config),
        "segmenter": sum(
            9 * w * w * max(1, n) for w, n in zip(config.segmenter.widths, config.segmenter.blocks, strict=True)
        )
        if config.segmenter
        else 0,
    }


def _vocoder_parameters(config: SoundingConfig) -> int:
    vocoder = config.vocoder
    if vocoder.network == "vocos":
        return vocoder.width * (2 * vocoder.blocks * vocoder.hidden + 8 * config.audio.mel_bands + vocoder.fft_size)
    halved = [max(1, vocoder.initial_channels >> stage) for stage in range(len(vocoder.rates) + 1)]
    return sum(
        2 * wide * narrow * kernel + sum(vocoder.kernels) * 2 * len(vocoder.dilations) * narrow**2
        for wide, narrow, kernel in zip(halved, halved[1:], vocoder.rate_kernels, strict=False)
    )


def vocoder_values(config: SoundingConfig, frames: int) -> int:
    """Numbers in the vocoder's largest feature map for `frames` mel frames."""
    vocoder = config.vocoder
    if vocoder.network == "vocos":
        return frames * max(vocoder.hidden, 2 * vocoder.fft_size)
    samples, largest = frames, vocoder.initial_channels * frames
    for stage, rate in enumerate(vocoder.rates, start=1):
        samples *= rate
        largest = max(largest, samples * max(1, vocoder.initial_channels >> stage))
    return largest


def activations(config: SoundingConfig) -> dict[str, int]:
    """Bytes that each part needs beside its weights, for one window of sound or one image."""
    frames = max(1, round(max(WINDOW_SECONDS, config.train_seconds) * config.audio.sample_rate / config.audio.hop))
    cells = frames * config.audio.mel_bands
    vae = max(
        (max(config.vae.channels[stage : stage + 2]) * cells) >> (2 * stage)
        for stage in range(len(config.vae.channels))
    )
    latents = cells // (config.vae.stride * config.unet.patch_size) ** 2
    unet = 2 * max((width * latents) >> (2 * stage) for stage, width in enumerate(config.unet.channels))
    vocoder = vocoder_values(config, frames)
    segmenter = config.segmenter
    image = (segmenter.side // 4) ** 2 * max(segmenter.widths) if segmenter else 0
    return {
        part: FLOAT * LIVE * size
        for part, size in (("vae", vae), ("unet", unet), ("vocoder", vocoder), ("segmenter", image))
    }


def attending(config: SoundingConfig) -> int:
    """Positions of one window that attend to each other in the U-Net, at its second stage, the first with attention."""
    frames = max(WINDOW_SECONDS, config.train_seconds) * config.audio.sample_rate / config.audio.hop
    return math.ceil(frames * config.audio.mel_bands / (config.vae.stride * config.unet.patch_size) ** 2 / 4)


def blocks(config: SoundingConfig) -> dict[str, int]:
    """Blocks of each part, each of which has weights; the patch tower's are given by its name."""
    query, vocoder, segmenter = config.query, config.vocoder, config.segmenter
    return {
        "query": sum(query.depths) if query.tower == "clap_audio" else query.layers,
        "vae": 2 * config.vae.layers * len(config.vae.channels),
        "unet": 2 * config.unet.layers * len(config.unet.channels),
        "vocoder": vocoder.blocks
        if vocoder.network == "vocos"
        else 2 * len(vocoder.rates) * len(vocoder.kernels) * len(vocoder.dilations),
        "segmenter": sum(segmenter.blocks) if segmenter else 0,
    }


def check_cost(config: SoundingConfig) -> None:
    """Refuse a configuration of a model too large for any machine that this is made for.

    Raises:
        ValueError: naming the part that is too large.
    """
    for what, sizes, most, unit in (
        ("parameters", parameters(config), MOST_PARAMETERS, ""),
        ("memory for one window", activations(config), MOST_ACTIVATIONS, " bytes"),
    ):
        part = max(sizes, key=lambda name: sizes[name])
        if sizes[part] > most:
            raise ValueError(
                f"{part} would take about {sizes[part]:.3g}{unit} of {what}, but at most {most:.3g} are expected; give "
                "smaller numbers."
            )
    if len(config.unet.channels) > 1 and attending(config) > MOST_TOKENS:
        raise ValueError(
            f"unet would attend to {attending(config)} positions of one window, but at most {MOST_TOKENS} are "
            "expected; give fewer bands, or a VAE with more stages."
        )
