"""Cross-attention to one token without queries is the whole one."""

from __future__ import annotations

import copy

import torch

from sounding.model import SoundingModel
from sounding.networks.attention import OneKeyAttention


def test_one_token_needs_no_queries(tiny_model: SoundingModel) -> None:
    short = copy.deepcopy(tiny_model.unet).double()
    whole, calls = copy.deepcopy(short), []
    for layer in whole.modules():
        if isinstance(getattr(layer, "processor", None), OneKeyAttention):
            layer.set_processor(layer.processor.otherwise)
    crossing = [layer for name, layer in short.named_modules() if name.endswith("attn2")]
    assert crossing
    for layer in crossing:
        layer.to_q.register_forward_hook(lambda *given: calls.append(1))
    noisy, tokens = torch.randn(2, 8, 16, 16).double(), torch.randn(2, 3, 16).double()
    with torch.no_grad():
        made = short(noisy, 500, encoder_hidden_states=tokens[:, :1]).sample
        expected = whole(noisy, 500, encoder_hidden_states=tokens[:, :1]).sample
        torch.testing.assert_close(made, expected, atol=1e-12, rtol=1e-12)
        assert not calls
        several = [network(noisy, 500, encoder_hidden_states=tokens).sample for network in (short, whole)]
        assert torch.equal(*several)
        assert len(calls) == len(crossing)
    with torch.enable_grad():
        short(noisy, 500, encoder_hidden_states=tokens[:, :1].requires_grad_())
    assert len(calls) == 2 * len(crossing), "training needs the gradients of all parameters"
