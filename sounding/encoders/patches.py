"""Images and masks to the patch grid: one transform for both, and the open_clip patch encoders (section 3.2)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import PatchConfig
from ..images.resize import cell_means, resized
from ..utils.libraries import importing

# How far an image may go beyond 0..1 before it is refused instead of clipped: a bicubic resize overshoots hard edges by
# at most 0.445.
RINGING = 0.45
TURNED = 0.05  # natural logarithm of the aspect ratio from which an image can be told from itself turned


def check_image(image: Tensor) -> Tensor:
    """Check an image and return it as [B, H, W, 3] float; a fourth (alpha) channel is dropped.

    Raises:
        ValueError: not [B, H, W, 3 or 4] or [H, W, 3 or 4], not finite, or further outside 0..1 than `RINGING`.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, but [B, H, W, 3] is expected; give an RGB image (ComfyUI's IMAGE)."
        )
    if not torch.isfinite(image).all():
        raise ValueError("image has values that are not finite, but 0..1 is expected; check the node before.")
    low, high = (float(end) for end in torch.aminmax(image[..., :3]))
    if low < -RINGING or high > 1 + RINGING:
        raise ValueError(
            f"image has values {low:.3g}..{high:.3g}, but 0..1 is expected; divide pixels of 0..255 by 255, and bring "
            "-1..1 to 0..1."
        )
    return image[..., :3].float()


def check_mask(mask: Tensor) -> Tensor:
    """Check a mask and return it as [B, H, W] float.

    Raises:
        ValueError: not [B, H, W] or [H, W], or not finite, or outside 0..1.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, but [B, H, W] is expected; give one number per pixel "
            "(ComfyUI's MASK)."
        )
    mask = mask.float()
    if not torch.isfinite(mask).all() or mask.min() < -1e-3 or mask.max() > 1 + 1e-3:
        raise ValueError(
            f"mask has values {mask.min():.3g}..{mask.max():.3g}, but 0..1 is expected; scale it, or put raw "
            "logits through a sigmoid."
        )
    return mask.clamp(0, 1)


def blended(masks: Tensor) -> Tensor:
    """Masks [B, H, W] as one of all that they show [1, H, W], as the paper selects several objects at once.

    Raises:
        ValueError: see `check_mask`.
    """
    return check_mask(masks).amax(dim=0, keepdim=True)


def check_orientation(mask_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Refuse a mask (height, width) that is turned against its image; other sizes are stretched later.

    Raises:
        ValueError: the mask has the shape of the image turned by 90 degrees.
    """
    shape, turned = mask_size[0] / mask_size[1], image_size[1] / image_size[0]
    if abs(math.log(turned)) > TURNED and abs(math.log(shape / turned)) < 0.01:
        raise ValueError(
            f"mask is {mask_size[1]} x {mask_size[0]} pixels and the image {image_size[1]} x {image_size[0]}, so one "
            "of them is turned by 90 degrees; rotate the mask, or give one that was made for this image."
        )


def to_square(pixels: Tensor, size: int, geometry: str) -> Tensor:
    """Bring [B, C, H, W] to [B, C, size, size]; an image and its mask both go through this.

    "squeeze" keeps the whole image but not its aspect ratio, "crop" keeps the middle, "pad" adds black.
    """
    height, width = pixels.shape[-2:]
    if geometry == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[..., top : top + side, left : left + side]
    elif geometry == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        pixels = functional.pad(pixels, (left, side - width - left, top, side - height - top))
    return resized(pixels, (size, size))


def mask_to_grid(mask: Tensor, image_size: tuple[int, int], config: PatchConfig) -> Tensor:
    """Share of each patch that the mask covers: [B, H, W] -> [B, P], 0..1.

    A mask of another size than the image is first stretched over it, as ComfyUI's own nodes do. Each cell is an area
    average, so a soft or thin mask keeps its weight.

    Raises:
        ValueError: not a mask, or one turned by 90 degrees against its image.
    """
    mask = check_mask(mask)[:, None]
    check_orientation((mask.shape[-2], mask.shape[-1]), image_size)
    if mask.shape[-2:] != image_size and config.geometry != "squeeze":
        mask = resized(mask, image_size)
    if config.geometry != "squeeze":
        mask = to_square(mask, config.image_size, config.geometry)
    # Squeezing scales each axis by itself, so area averages can be taken from the mask directly.
    return cell_means(mask, config.grid).flatten(1)


class PatchEncoder(nn.Module):
    """Patch embeddings of an image by an image tower of open_clip or timm, in the tower's joint embedding space."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PatchConfig):
        super().__init__()
        self.config = config
        self.tower: Any = _build_vit(config) if config.tower == "vit" else TimmTower(config).eval()
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] 0..1 -> normalised [B, 3, S, S]."""
        pixels = check_image(image).movedim(-1, 1).to(self.mean.device)
        square = to_square(pixels, self.config.image_size, self.config.geometry).clamp(0, 1)
        return (square - self.mean.float()) / self.std.float()

    def forward(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] 0..1 -> patches [B, P, L], row by row from the top left."""
        return self.encode_pixels(self.preprocess(image))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised [B, 3, S, S] -> patches [B, P, L]."""
        pixels = pixels.to(next(self.tower.parameters()).dtype)
        if self.config.tower == "vit":
            # The tower applies ln_post to all tokens, but the visual projection to the class token only.
            _, tokens = self.tower(pixels)  # [B, P, width]
            return cast(Tensor, tokens @ self.tower.proj)
        return cast(Tensor, self.tower.head(self.features(pixels)))

    def features(self, pixels: Tensor) -> Tensor:
        """Normalised [B, 3, S, S] -> a "timm" tower's features of each patch, before its projection: [B, P, C]."""
        return cast(Tensor, self.tower.trunk.forward_features(pixels).flatten(2).transpose(1, 2))


def _build_vit(config: PatchConfig) -> nn.Module:
    with importing("open_clip"):
        import open_clip
        from open_clip.transformer import QuickGELU, VisionTransformer

    # Only models that come with the package: open_clip takes "hf-hub:..." and "local-dir:..." for names as well.
    described = open_clip.get_model_config(config.model) if config.model in open_clip.list_models() else None
    if described is None or not described["vision_cfg"].get("patch_size"):
        raise ValueError(f"patches.model is {config.model!r}, but an open_clip ViT such as 'ViT-B-32' is expected.")
    vision = described["vision_cfg"]
    if described["embed_dim"] != config.width or config.image_size // vision["patch_size"] != config.grid:
        raise ValueError(
            f"patches say width {config.width} and grid {config.grid}, but {config.model} has width "
            f"{described['embed_dim']} and grid {config.image_size // vision['patch_size']}; use those."
        )
    return VisionTransformer(
        image_size=config.image_size,
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        output_dim=config.width,
        act_layer=QuickGELU if config.quick_gelu else nn.GELU,
        output_tokens=True,
    ).eval()


class TimmTower(nn.Module):
    """A network of timm and a linear projection of its features, with the names of weights of open_clip's `TimmModel`.

    It is not built by open_clip, whose import brings all kinds of text towers.
    """

    def __init__(self, config: PatchConfig):
        super().__init__()
        name = timm_name(config)
        with importing("timm"):
            import timm

        self.trunk: Any = timm.create_model(name, pretrained=False)
        self.trunk.reset_classifier(0, global_pool="avg")
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(self.trunk.num_features, config.width, bias=False)))


def timm_name(config: PatchConfig) -> str:
    """The tower's architecture by a name that timm lists; other names could send timm to the network or a folder.

    Raises:
        ValueError: it is not listed.
    """
    with importing("timm"):
        import timm

    if any(letter in config.model for letter in ":/\\") or not timm.is_model(config.model):
        raise ValueError(f"patches.model is {config.model!r}, but a timm model such as 'resnet18' is expected.")
    return config.model
