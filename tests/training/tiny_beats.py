"""BEATs as Microsoft publishes it, small, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WIDTH, PATCH_WIDTH, HEADS, HIDDEN, LAYERS, BUCKETS, FARTHEST, POSITIONS = 32, 16, 4, 48, 2, 32, 20, 16
CONFIG: dict[str, Any] = {  # the names that published files have
    "input_patch_size": 16, "embed_dim": PATCH_WIDTH, "conv_bias": False, "encoder_layers": LAYERS,
    "encoder_embed_dim": WIDTH, "encoder_ffn_embed_dim": HIDDEN, "encoder_attention_heads": HEADS,
    "activation_fn": "gelu", "layer_wise_gradient_decay_ratio": 0.6, "layer_norm_first": False, "deep_norm": True,
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
    "dropout_input": 0.0, "conv_pos": POSITIONS, "conv_pos_groups": 4, "relative_position_embedding": True,
    "num_buckets": BUCKETS, "max_distance": FARTHEST, "gru_rel_pos": True, "finetuned_model": False,
}  # fmt: skip


def beats_weights() -> dict[str, Tensor]:
    """Under Microsoft's names, that of the older weight norm among them."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (PATCH_WIDTH, 1, 16, 16),
        "encoder.pos_conv.0.bias": (WIDTH,),
        "encoder.pos_conv.0.weight_g": (1, 1, POSITIONS),
        "encoder.pos_conv.0.weight_v": (WIDTH, WIDTH // 4, POSITIONS),
    }

    def add(name: str, out: int, into: int | None = None) -> None:
        shapes[f"{name}.weight"] = (out,) if into is None else (out, into)
        shapes[f"{name}.bias"] = (out,)

    add("layer_norm", PATCH_WIDTH)
    add("post_extract_proj", WIDTH, PATCH_WIDTH)
    add("encoder.layer_norm", WIDTH)
    for layer in range(LAYERS):
        inside = f"encoder.layers.{layer}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add(f"{inside}.self_attn.{name}", WIDTH, WIDTH)
        add(f"{inside}.self_attn.grep_linear", 8, WIDTH // HEADS)
        shapes[f"{inside}.self_attn.grep_a"] = (1, HEADS, 1, 1)
        shapes[f"{inside}.self_attn.relative_attention_bias.weight"] = (BUCKETS, HEADS)
        add(f"{inside}.fc1", HIDDEN, WIDTH)
        add(f"{inside}.fc2", WIDTH, HIDDEN)
        add(f"{inside}.self_attn_layer_norm", WIDTH)
        add(f"{inside}.final_layer_norm", WIDTH)
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    shared = "self_attn.relative_attention_bias.weight"  # one table for all layers
    state[f"encoder.layers.1.{shared}"] = state[f"encoder.layers.0.{shared}"]
    return state


def write_beats(file: Path, state: dict[str, Tensor]) -> None:
    """A checkpoint in Microsoft's form."""
    torch.save({"cfg": CONFIG, "model": state}, file)
