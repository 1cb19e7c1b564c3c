"""BEATs from a file in Microsoft's form, with random weights: its tokens are those of the network, written out here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio.compliance.kaldi
from torch import Tensor
from torch.nn import functional

from training.matching.encoders import open_audio

from .tiny_beats import BUCKETS, CONFIG, FARTHEST, HEADS, LAYERS, POSITIONS, WIDTH, beats_weights, write_beats


def buckets(count: int) -> Tensor:
    """The learned bias of each distance: one per distance where it is near, in logarithmic steps where it is far."""
    distance = torch.arange(count)[None] - torch.arange(count)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = exact + (
        (distance.abs().clamp(min=1) / exact).log() / math.log(FARTHEST / exact) * (half - exact)
    ).long().clamp(max=half - exact - 1)
    return (distance > 0) * half + torch.where(distance.abs() < exact, distance.abs(), far)


def tokens_of(sound: Tensor, state: dict[str, Tensor]) -> Tensor:
    """[steps * 8, width] of a sound that fills whole patches (Chen et al., 2022; gates as in WavLM)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    banks = torchaudio.compliance.kaldi.fbank(2**15 * sound[None], num_mel_bins=128, sample_frequency=16_000)
    banks = (banks - 15.41663) / (2 * 6.55582)
    patches = functional.conv2d(banks[None, None], state["patch_embedding.weight"], stride=16)[0].flatten(1).T
    x = linear(norm(patches, "layer_norm"), "post_extract_proj")
    direction = state["encoder.pos_conv.0.weight_v"]
    kernel = state["encoder.pos_conv.0.weight_g"] * direction / direction.norm(dim=(0, 1), keepdim=True)
    around = functional.conv1d(x.T, kernel, state["encoder.pos_conv.0.bias"], padding=POSITIONS // 2, groups=4)
    x = norm(x + functional.gelu(around[:, :-1]).T, "encoder.layer_norm")
    residual = (2 * LAYERS) ** 0.25  # deep norm
    for layer in range(LAYERS):
        inside = f"encoder.layers.{layer}"
        attention = f"{inside}.self_attn"
        query, key, value = (
            linear(x, f"{attention}.{name}").unflatten(1, (HEADS, -1)).movedim(1, 0)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        gates = linear(query, f"{attention}.grep_linear").unflatten(-1, (2, 4)).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * state[f"{attention}.grep_a"][0] - 1) + 2
        bias = state[f"{attention}.relative_attention_bias.weight"][buckets(len(x))].movedim(-1, 0)
        likeness = query @ key.mT / math.sqrt(WIDTH // HEADS) + gate * bias
        mixed = (likeness.softmax(dim=-1) @ value).movedim(0, 1).flatten(1)
        x = norm(residual * x + linear(mixed, f"{attention}.out_proj"), f"{inside}.self_attn_layer_norm")
        inner = functional.gelu(linear(x, f"{inside}.fc1"))
        x = norm(residual * x + linear(inner, f"{inside}.fc2"), f"{inside}.final_layer_norm")
    return x


def test_tokens_of_a_file_in_microsofts_form(tmp_path: Path) -> None:
    state = beats_weights()
    file = tmp_path / "BEATs_tiny.pt"
    write_beats(file, state)
    encoder = open_audio(f"beats:{file}")
    assert (encoder.config.width, encoder.config.per_step, encoder.config.rate) == (WIDTH, 8, 6.25)
    sound = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(1))
    tokens = encoder.encode(sound, 16_000)
    assert tokens.shape == (6, 8, WIDTH)  # a second has six whole steps of 0.16 s
    filled = 400 + (6 * 16 - 1) * 160  # the last of their frames ends here
    torch.testing.assert_close(tokens.flatten(0, 1), tokens_of(sound[:filled], state), atol=2e-5, rtol=1e-4)
    assert torch.equal(encoder.encode(sound, 16_000), tokens)
    state["patch_embedding.weight"] *= 2
    write_beats(tmp_path / "other.pt", state)
    assert open_audio(f"beats:{tmp_path / 'other.pt'}").config.fingerprint != encoder.config.fingerprint


@pytest.mark.parametrize(
    "content", [{"model": {}}, {"cfg": CONFIG, "model": {"a": torch.zeros(1)}}, {"cfg": 5, "model": 5}]
)
def test_another_file_is_refused_in_a_sentence(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of BEATs"):
        open_audio(f"beats:{tmp_path / 'file.pt'}")
