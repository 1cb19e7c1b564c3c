"""The host's IMAGE, MASK, AUDIO and LATENT, checked and converted to what `sounding` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...sounding.audio.resampling import check_rate
from ...sounding.config import SoundingConfig
from ...sounding.encoders.patches import check_image, check_mask
from .wires import SEEDS

if TYPE_CHECKING:
    pass


def dense(value: Any, what: str, expected: str) -> Tensor:
    """Check that an input is a plain tensor of real numbers, as it always should be.

    Args:
        value: what came.
        what: the input's name, for the message.
        expected: what it should be, likewise.

    Raises:
        ValueError: nothing came, or something else.
    """
    if value is None:
        raise ValueError(f"{what} is nothing, but {expected} is expected; connect a node that gives it.")
    plain = isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided
    if not plain or value.is_complex():
        raise ValueError(
            f"{what} is a {type(value).__name__} of another kind, but {expected} as one plain tensor of numbers is "
            "expected; connect a node that gives it."
        )
    return value


def checked_image(image: Any) -> Tensor:
    """An IMAGE as [B, H, W, 3].

    Raises:
        ValueError: it is not an IMAGE.
    """
    return check_image(dense(image, "image", "IMAGE, [B, H, W, 3],"))


def checked_mask(mask: Any) -> Tensor:
    """A MASK as [B, H, W].

    Raises:
        ValueError: it is not a MASK.
    """
    return check_mask(dense(mask, "mask", "MASK, [B, H, W],"))


def audio_waveform(audio: Any) -> tuple[Tensor, int]:
    """The waveform [B, channels, samples] float32 of an AUDIO, and its sample rate.

    Raises:
        ValueError: it is not an AUDIO, or nothing (of a silent video); no samples, infinite ones, or an invalid rate.
    """
    if audio is None:
        raise ValueError(
            "audio is nothing, but AUDIO is expected; a video without sound gives none, so connect another sound."
        )
    # Some other packs have a mapping of their own here, which reads its file on first access.
    if not isinstance(audio, Mapping) or not {"waveform", "sample_rate"} <= set(audio):
        raise ValueError(
            f"audio is a {type(audio).__name__} of another kind, but AUDIO, a waveform with its sample_rate, is "
            "expected; connect a node that gives AUDIO."
        )
    waveform = dense(audio["waveform"], "audio", "AUDIO, [B, channels, samples],")
    if waveform.ndim != 3 or 0 in waveform.shape:
        raise ValueError(
            f"audio has shape {tuple(waveform.shape)}, but [B, channels, samples] with at least one sample is "
            "expected; connect a node that gives AUDIO."
        )
    rate = check_rate(audio["sample_rate"])
    if not waveform.isfinite().all():
        raise ValueError("audio has samples that are not finite, but numbers are expected; check the node before.")
    return waveform.float(), rate


def latent_samples(latent: dict[str, Any], config: SoundingConfig) -> Tensor:
    """The samples [B, 8, T/4, 16] of a LATENT.

    Raises:
        ValueError: it is another model's latent (an image's, say), empty, or not finite.
    """
    if not isinstance(latent, Mapping) or "samples" not in latent:
        raise ValueError(
            f"latent is a {type(latent).__name__} without samples, but LATENT is expected; connect Sounding Empty "
            "Latent or Sounding Encode Audio, with the same model."
        )
    samples = dense(latent["samples"], "latent", "LATENT, [B, channels, frames, bands],")
    channels, bands = config.vae.latent_channels, config.latent_bands
    shape = tuple(samples.shape)
    if len(shape) != 4 or shape[1] != channels or shape[3] != bands or 0 in shape:
        raise ValueError(
            f"latent has shape {shape}, but [B, {channels}, frames, {bands}] is expected; connect Sounding Empty "
            "Latent or Sounding Encode Audio, with the same model."
        )
    if not samples.isfinite().all():
        raise ValueError("latent has values that are not finite, but numbers are expected; check the node before.")
    return samples.float()


def latent_noise_mask(latent: dict[str, Any], rows: int) -> Tensor | None:
    """What a sampler generates anew in a latent, [rows, 1, T, F] 0..1, by its `noise_mask`; None is everything.

    As in core: white (1) is generated anew, black stays; at any resolution. Its rows are time, its columns pitch.

    Args:
        latent: a LATENT.
        rows: the sampler's batch size.

    Raises:
        ValueError: it is not a MASK, or there are other than one or `rows` masks.
    """
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    mask = dense(mask, "noise_mask", "MASK, [B, H, W],")
    mask = check_mask(mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask)[:, None]
    if len(mask) not in (1, rows):
        raise ValueError(
            f"noise_mask has {len(mask)} masks for {rows} sounds, but one per sound (or one for all) is expected; "
            "connect another to Set Latent Noise Mask."
        )
    mask = torch.nn.functional.interpolate(mask, tuple(latent["samples"].shape[2:]), mode="bilinear")
    return mask.expand(rows, -1, -1, -1)


def latent_batch_indices(latent: dict[str, Any], rows: int) -> Sequence[int]:
    """The items' indices in the batch that they were taken from, as core nodes note them: they keep their noise."""
    indices = latent.get("batch_index")
    if not isinstance(indices, (list, tuple)) or not len(indices) == len(latent["samples"]) == rows:
        return range(rows)
    return indices if all(isinstance(index, int) for index in indices) else range(rows)


def latent_seconds(latent: dict[str, Any], config: SoundingConfig) -> float | None:
    """The length that was asked for when the latent was made, or None if its number of frames no longer fits it.

    Latents have a whole number of frames, so they are a little longer than that. Core nodes that cut or join latents
    leave the old length in them, where it is wrong.
    """
    seconds = latent.get("seconds")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        return None
    return float(seconds) if config.latent_frames(seconds) == latent["samples"].shape[2] else None


def latent_loop(latent: dict[str, Any]) -> bool:
    """Whether a latent's end goes on with its beginning, as Sounding Empty Latent notes and core nodes keep it."""
    return latent.get("loop") is True


def latent_seeds(latent: dict[str, Any]) -> list[int] | None:
    """The seed of each item, as Sounding Sampler notes them; None where core nodes have joined or picked some since."""
    seeds = latent.get(SEEDS)
    return seeds if isinstance(seeds, list) and len(seeds) == len(latent["samples"]) else None


def with_samples(latent: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    """A copy of a LATENT with other samples: nodes share their outputs, so these are never edited."""
    return {**latent, "samples": samples, "type": "audio"}
