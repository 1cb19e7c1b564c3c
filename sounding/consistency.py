"""Whether the parts of a configuration fit each other, beyond the range that each number has by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import AudioConfig, SoundingConfig, VaeConfig, VocoderConfig
    from .naming.config import NamingConfig

MOST_FRAMES = 250  # mel frames per second; the paper has 100
MOST_GENERAL = 16  # more general names above one


def check_consistency(config: SoundingConfig) -> None:
    """Compare condition widths, heads, audio geometry, the noise schedule and the names of objects.

    Raises:
        ValueError: naming the two settings that contradict each other.
    """
    film = config.unet.film_width
    if film and film != config.grounding.condition_width:
        raise ValueError(
            f"unet.film_width is {film} and grounding.condition_width is {config.grounding.condition_width}, but "
            "one width is expected; give both the same number."
        )
    if config.unet.heads and len(config.unet.heads) != len(config.unet.channels):
        raise ValueError(
            f"unet.heads has {len(config.unet.heads)} values, but {len(config.unet.channels)} are expected; give one "
            "per stage."
        )
    _check_audio(config.audio, config.vae, config.vocoder)
    if film and (config.unet.patch_size > 1 or config.unet.modulated):
        raise ValueError(
            f"unet.film_width is {film}, patch_size {config.unet.patch_size} and modulated {config.unet.modulated}, "
            "but AudioLDM's own U-Net has neither patches nor modulation; give the defaults of one."
        )
    if config.latent_bands % config.unet.patch_size:
        raise ValueError(
            f"unet.patch_size is {config.unet.patch_size}, but a divisor of the latents' {config.latent_bands} bands "
            "is expected; give one."
        )
    if config.naming is not None:
        _check_naming(config.naming)
    if config.diffusion.beta_start > config.diffusion.beta_end:
        raise ValueError(
            f"diffusion.beta_start is {config.diffusion.beta_start:g} and beta_end {config.diffusion.beta_end:g}, but "
            "noise grows: give a beta_end that is not smaller."
        )


def _check_naming(naming: NamingConfig) -> None:
    names, parents = naming.names, naming.parents
    if len(set(names)) < len(names):
        raise ValueError("naming.names has a name twice, but different ones are expected; merge them.")
    if not all(name.strip() for name in names) or max(naming.rows) < 0:
        raise ValueError("naming.names has an empty name, or no row has a name, but names are expected; convert again.")
    if len(parents) not in (0, len(names)):
        raise ValueError(f"naming.parents has {len(parents)} values, but {len(names)} are expected, one per name.")
    if (last := max((*naming.rows, *parents))) >= len(names):
        raise ValueError(
            f"naming.rows or naming.parents refer to name {last}, but 0 to {len(names) - 1} are expected; give numbers "
            "of names."
        )
    for name, above in enumerate(parents):
        steps = 0
        while above >= 0 and steps <= MOST_GENERAL:
            above, steps = parents[above], steps + 1
        if steps > MOST_GENERAL:
            raise ValueError(
                f"naming.parents lead from {names[name]!r} over more than {MOST_GENERAL} names or in a circle, but a "
                "forest is expected; mend them."
            )


def _check_audio(audio: AudioConfig, vae: VaeConfig, vocoder: VocoderConfig) -> None:
    if not audio.f_min < audio.f_max <= audio.sample_rate / 2:
        raise ValueError(
            f"audio.f_min is {audio.f_min:g} and f_max {audio.f_max:g} at {audio.sample_rate} Hz, but bands between 0 "
            "and half the rate are expected."
        )
    if audio.hop > audio.fft_size or audio.sample_rate > MOST_FRAMES * audio.hop:
        raise ValueError(
            f"audio.hop is {audio.hop}, but at most fft_size ({audio.fft_size}) and at most {MOST_FRAMES} frames per "
            "second are expected."
        )
    if audio.mel_bands < vae.stride:
        raise ValueError(
            f"audio.mel_bands is {audio.mel_bands}, but the VAE's {len(vae.channels)} stages divide it by "
            f"{vae.stride}; give as many bands or fewer stages."
        )
    if vocoder.network == "vocos":
        # More than eight times would reach beyond the frames that windows have in common, as more blocks would.
        if not 2 * audio.hop <= vocoder.fft_size <= 8 * audio.hop or vocoder.fft_size % 2:
            raise ValueError(
                f"vocoder.fft_size is {vocoder.fft_size}, but an even number of twice to eight times the hop "
                f"({audio.hop}) is expected; give one, such as {4 * audio.hop}."
            )
        return
    if vocoder.noise:
        raise ValueError(
            "vocoder.noise is true, but vocoder.network is hifigan, which takes no noise; set the network to vocos, or "
            "noise to false."
        )
    if math.prod(vocoder.rates) != audio.hop:
        raise ValueError(
            f"vocoder.rates multiply to {math.prod(vocoder.rates)}, but audio.hop, {audio.hop}, is expected; give "
            "rates that do."
        )
    if len(vocoder.rates) != len(vocoder.rate_kernels) or vocoder.initial_channels < 2 ** len(vocoder.rates):
        raise ValueError(
            f"vocoder.rates has {len(vocoder.rates)} values, rate_kernels {len(vocoder.rate_kernels)}, "
            f"initial_channels is {vocoder.initial_channels}, but one kernel per rate and channels to halve as often "
            "are expected."
        )
