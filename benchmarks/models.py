"""Models with random weights, on which time does not depend: the paper's size, and a tiny one for trial runs."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sounding.config import (
    GenerationConfig,
    GroundingConfig,
    PatchConfig,
    QueryConfig,
    SoundingConfig,
    UnetConfig,
    VaeConfig,
    VocoderConfig,
)
from sounding.model import SoundingModel
from sounding.networks.attention import OneKeyAttention
from sounding.networks.convolution import ShortConv1d

TOKENS = 20  # per caption
TINY = SoundingConfig(
    name="tiny",
    train_seconds=1.28,
    patches=PatchConfig(tower="timm", model="test_efficientnet", width=16, grid=5, image_size=160, quick_gelu=False),
    query=QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=16, context_length=TOKENS, tokenizer=""),
    grounding=GroundingConfig(key_width=16, mlp_width=16, condition_width=16),
    vae=VaeConfig(channels=(8, 8, 8), layers=1, norm_groups=4),
    generation=GenerationConfig(steps=1),
    unet=UnetConfig(channels=(16, 32), layers=1, head_width=16, norm_groups=8),
    vocoder=VocoderConfig(initial_channels=32, kernels=(3,), dilations=(1,)),
)


def build_model(device: str, dtype: torch.dtype, tiny: bool = False) -> SoundingModel:
    """All parts in one precision."""
    torch.manual_seed(0)
    model = SoundingModel(TINY if tiny else SoundingConfig()).requires_grad_(False)
    for weight in model.vocoder.parameters():
        if weight.ndim == 3:  # HiFi-GAN's initialisation is so small that the waveforms could not differ
            nn.init.xavier_normal_(weight, gain=1.3)
    return model.to(device=device, dtype=dtype)


def as_published(network: Any) -> Any:
    """The network with the same weights, computed as the libraries do."""
    plain = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    for layer in plain.modules():
        if isinstance(layer, ShortConv1d):
            layer.__class__ = nn.Conv1d  # type: ignore[assignment]
        if isinstance(getattr(layer, "processor", None), OneKeyAttention):
            layer.set_processor(layer.processor.otherwise)
    return plain


def write_tiny(path: Path) -> Path:
    """A checkpoint of the tiny model, which can be fine-tuned as the starter can."""
    grounding = dataclasses.replace(TINY.grounding, norm_matching=True)
    model = SoundingModel(dataclasses.replace(TINY, grounding=grounding)).requires_grad_(False)
    model.grounding.condition_length.fill_(0.3)
    model.save_pretrained(path, dtype=torch.float32)
    return path
