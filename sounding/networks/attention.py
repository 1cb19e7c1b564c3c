"""Cross-attention to a condition of one token, computed without queries.

The softmax over one key is 1 whatever the query, so every position gets the same output: the projected value. With one
selection the condition has one token (section 3.1), so the products for queries and outputs of all positions are saved.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class OneKeyAttention:
    """A processor of diffusers' `Attention` that hands everything but a single key to another processor.

    With gradients it does so, too: parameters for queries and keys have gradients of 0 then, and weight decay, where
    without any they would be left alone.
    """

    def __init__(self, otherwise: Any):
        self.otherwise = otherwise

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        """Positions [B, S, C] that attend to a condition [B, N, D]: [B, S, C]."""
        one = encoder_hidden_states is not None and encoder_hidden_states.shape[1] == 1 and attention_mask is None
        if encoder_hidden_states is None or not one or torch.is_grad_enabled():
            return self.otherwise(attn, hidden_states, encoder_hidden_states, attention_mask, temb, *rest, **options)
        output: Tensor = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return output.expand(-1, hidden_states.shape[1], -1)


def without_queries(network: Network) -> Network:
    """The network itself, whose cross-attentions to one token compute no queries from now on."""
    for layer in network.modules():
        if getattr(layer, "is_cross_attention", False) and _is_plain(layer):
            layer.set_processor(OneKeyAttention(layer.processor))  # type: ignore[operator]
    return network


def _is_plain(attention: Any) -> bool:
    """Whether an attention is projections and a softmax alone, as in a U-Net's transformer blocks."""
    extras = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k", "residual_connection")
    plain = not any(getattr(attention, name, None) for name in extras)
    return plain and attention.rescale_output_factor == 1 and attention.to_out is not None
