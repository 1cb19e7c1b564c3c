"""SAM (Kirillov et al. 2023) in Meta's own layout, through `segment-anything`; the size is told from the tensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.meta import filled
from ..utils.libraries import importing
from ..utils.threads import spins_adaptively
from ..weights import WeightsError
from ..weights.reading import count, expect, laid_out
from .base import Prepared, Segmentation, one_image
from .prompt import Prompt

KIND = "a Segment Anything model (sam_vit_b_01ec64.pth, ...)"
HEADS = 8  # of the mask decoder; tensors do not tell it, and all published models have it


class Sam1Segmenter:
    """Points and a box."""

    def __init__(self, sam: nn.Module, name: str = "SAM"):
        self.name = name
        self.module: nn.Module = sam.eval().requires_grad_(False)

    @property
    def memory(self) -> int:
        """See `Segmenter.memory`. Attention in all of the image decides: its weights, as large again with positions,
        and their softmax.
        """
        encoder: Any = self.module.image_encoder
        rows, columns, width = encoder.pos_embed.shape[1:]
        tokens = rows * columns
        return int(4 * (3 * encoder.blocks[0].attn.num_heads * tokens**2 + 12 * tokens * width))

    def _predictor(self) -> Any:
        with importing("segment_anything"):
            from segment_anything import SamPredictor  # type: ignore[import-untyped]

        return SamPredictor(self.module)

    @torch.inference_mode()
    @spins_adaptively
    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`. Pixels are rounded to 8 bits: that is what SAM resizes."""
        image = one_image(image)
        predictor = self._predictor()
        predictor.set_image((image[0] * 255).round().to(torch.uint8).cpu().numpy())
        inner = torch.tensor(predictor.input_size)
        return Prepared((image.shape[1], image.shape[2]), {"features": predictor.features.cpu(), "input_size": inner})

    @torch.inference_mode()
    @spins_adaptively
    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`. A single click has three answers, of which the best scored is taken."""
        prompt.check(prepared.size, self.name)
        predictor = self._predictor()
        predictor.original_size = prepared.size
        predictor.input_size = tuple(prepared.tensors["input_size"].tolist())
        predictor.features = prepared.tensors["features"].to(predictor.device)
        predictor.is_image_set = True
        points = [*prompt.positive, *prompt.negative]
        logits, scores, _ = predictor.predict(
            point_coords=np.array(points, np.float64) if points else None,
            point_labels=np.array([1] * len(prompt.positive) + [0] * len(prompt.negative)) if points else None,
            box=None if prompt.box is None else np.array(prompt.box, np.float64),
            multimask_output=is_ambiguous(prompt),
            return_logits=True,
        )
        best = int(scores.argmax())
        return Segmentation.of(torch.from_numpy(logits[best]), float(scores[best]))


def is_ambiguous(prompt: Prompt) -> bool:
    """Whether a prompt may mean a part as well as the whole: then SAM is asked for three masks."""
    return prompt.box is None and len(prompt.positive) + len(prompt.negative) == 1


def build_sam1(state: dict[str, Tensor], path: Path) -> nn.Module:
    """A `segment_anything` model of the sizes that its tensors have, with them.

    Raises:
        WeightsError: not a SAM, or not complete.
    """
    with importing("segment_anything"):
        from segment_anything.modeling import (  # type: ignore[import-untyped]
            ImageEncoderViT,
            MaskDecoder,
            PromptEncoder,
            Sam,
            TwoWayTransformer,
        )

    position = expect(state, "image_encoder.pos_embed", path, KIND)
    patch = expect(state, "image_encoder.patch_embed.proj.weight", path, KIND)
    with laid_out(path):
        grid, width, stride = position.shape[1], position.shape[3], patch.shape[-1]
        embed = state["image_encoder.neck.0.weight"].shape[0]
        relative = [
            state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape
            for i in range(count(state, "image_encoder.blocks."))
        ]
        everywhere = [i for i, (length, _) in enumerate(relative) if length == 2 * grid - 1]
        windows = {(length + 1) // 2 for length, _ in relative if length != 2 * grid - 1} or {0}
        if len(windows) != 1:
            raise WeightsError(f"{path} has windows of several sizes, but {KIND} is expected; check the file.")
        layers = "mask_decoder.transformer.layers."
        window = windows.pop()
    depth = len(relative)

    def made() -> nn.Module:
        return Sam(
            image_encoder=ImageEncoderViT(
                depth=depth,
                embed_dim=width,
                img_size=grid * stride,
                mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                num_heads=width // relative[0][1],
                patch_size=stride,
                qkv_bias=True,
                use_rel_pos=True,
                global_attn_indexes=everywhere,
                window_size=window,
                out_chans=embed,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=embed,
                image_embedding_size=(grid, grid),
                input_image_size=(grid * stride, grid * stride),
                mask_in_chans=state["prompt_encoder.mask_downscaling.6.weight"].shape[1],
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
                transformer=TwoWayTransformer(
                    depth=count(state, layers),
                    embedding_dim=embed,
                    mlp_dim=state[f"{layers}0.mlp.lin1.weight"].shape[0],
                    num_heads=HEADS,
                ),
                transformer_dim=embed,
                iou_head_depth=count(state, "mask_decoder.iou_prediction_head.layers."),
                iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
            ),
            pixel_mean=[123.675, 116.28, 103.53],
            pixel_std=[58.395, 57.12, 57.375],
        )

    with laid_out(path):
        return filled(made, state).float().eval()
