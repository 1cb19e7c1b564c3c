"""HiFi-GAN generators (Kong et al. 2020) to transformers' `SpeechT5HifiGan`, which our vocoder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import VocoderConfig
from ..weights import WeightsError
from ..weights.reading import count, expect, read_json, read_state, read_transformers
from . import Converted

# Strides and dilations leave no trace in the weights; these are AudioLDM's (16 kHz, 64 bands).
AUDIOLDM = VocoderConfig()


def read_hifigan(path: Path) -> Converted:
    """A vocoder from a transformers folder, or an original generator's file with its `config.json` beside it.

    Raises:
        WeightsError: other weights, or a layout that ours cannot express.
    """
    if path.is_dir():
        return hifigan_from_state(read_transformers(path), path, read_json(path / "config.json"))
    beside = path.parent / "config.json"
    return hifigan_from_state(read_state(path), path, read_json(beside) if beside.is_file() else {})


def hifigan_from_state(state: dict[str, Tensor], path: Path, config: dict[str, Any]) -> Converted:
    """A vocoder from named tensors, weight norm folded; `config` is transformers' or HiFi-GAN's own.

    Raises:
        WeightsError: see `read_hifigan`.
    """
    state = {name.replace("ups.", "upsampler.", 1) if name.startswith("ups.") else name: v for name, v in state.items()}
    tensors = {name: value.float() for name, value in fold_weight_norm(state).items()}
    first = expect(tensors, "conv_pre.weight", path, "a HiFi-GAN generator")
    upsamplers = range(count(tensors, "upsampler."))
    rate_kernels = tuple(tensors[f"upsampler.{i}.weight"].shape[-1] for i in upsamplers)
    blocks = count(tensors, "resblocks.") // max(1, len(upsamplers))
    kernels = tuple(
        expect(tensors, f"resblocks.{i}.convs1.0.weight", path, "a HiFi-GAN of resblock kind 1").shape[-1]
        for i in range(blocks)
    )
    rates = config.get("upsample_rates")
    dilations = config.get("resblock_dilation_sizes", [list(AUDIOLDM.dilations)] * blocks)
    if rates is None:
        if rate_kernels != AUDIOLDM.rate_kernels:
            raise WeightsError(
                f"{path} upsamples with kernels {rate_kernels}, whose strides the weights do not say; put the "
                "generator's config.json beside it."
            )
        rates = AUDIOLDM.rates
    if len(rates) != len(rate_kernels) or len({tuple(each) for each in dilations}) != 1:
        raise WeightsError(
            f"{path} has strides {list(rates)} for {len(rate_kernels)} upsamplers and dilations {dilations}, but one "
            "stride each and the same dilations everywhere are expected; use another vocoder."
        )
    normalize = bool(config.get("normalize_before", False)) and "mean" in tensors
    # Without normalisation mean and scale are not used, but the class keeps them.
    bands = first.shape[1]
    tensors.setdefault("mean", torch.zeros(bands))
    tensors.setdefault("scale", torch.ones(bands))
    return Converted(
        VocoderConfig(
            initial_channels=first.shape[0],
            rates=tuple(int(rate) for rate in rates),
            rate_kernels=rate_kernels,
            kernels=kernels,
            dilations=tuple(int(each) for each in dilations[0]),
            normalize=normalize,
        ),
        tensors,
    )


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace magnitude and direction (`weight_g`, `weight_v`, or PyTorch's newer names) by the weight they make.

    w = g v / |v|, the norm over all axes but the first (Salimans and Kingma 2016).
    """
    folded: dict[str, Tensor] = {}
    for name, value in state.items():
        for magnitude, direction in (
            (".weight_g", ".weight_v"),
            (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
        ):
            if name.endswith(direction):
                stem = name.removesuffix(direction)
                if stem + magnitude in state:
                    norm = value.float().flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
                    folded[f"{stem}.weight"] = state[stem + magnitude].float() * value.float() / norm
                    break
            if name.endswith(magnitude):
                break
        else:
            folded[name] = value
    return folded
