"""Segment Anything models with the structure of the published ones, small, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 32}


def randomise(module: nn.Module) -> nn.Module:
    """Random values instead of zeros, whose weights no comparison would see."""
    generator = torch.Generator().manual_seed(2)
    for weight in module.parameters():
        weight.data = weight.data + 0.2 * torch.randn(weight.shape, generator=generator)
    return module.eval()


def tiny_sam1() -> Any:
    """Meta's classes, for images of 80 pixels."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(3)
    return randomise(
        Sam(
            image_encoder=ImageEncoderViT(
                depth=3,
                embed_dim=24,
                img_size=80,
                mlp_ratio=4,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                num_heads=3,
                patch_size=16,
                qkv_bias=True,
                use_rel_pos=True,
                global_attn_indexes=(1,),
                window_size=3,
                out_chans=32,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=32, image_embedding_size=(5, 5), input_image_size=(80, 80), mask_in_chans=16
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=48, num_heads=8),
                transformer_dim=32,
                iou_head_depth=3,
                iou_head_hidden_dim=16,
            ),
            pixel_mean=[123.675, 116.28, 103.53],
            pixel_std=[58.395, 57.12, 57.375],
        )
    )


def tiny_sam2_vision() -> dict[str, Any]:
    """The vision part of a `Sam2Config`."""
    return {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "num_attention_heads": 1,
            "image_size": [64, 64],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [4, 2, 2, 1],
            "global_attention_blocks": [3],
            "window_positional_embedding_background_size": [2, 2],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
