"""Images as CLIP's towers get them."""

from __future__ import annotations

import torch
from torch import Tensor

SIZE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MOST_ASPECT = 20  # of an image's sides; resizing a longer one would fill the memory


def check_aspect(image: Tensor) -> Tensor:
    """An image [3, H, W] whose sides are not too different.

    Raises:
        ValueError: one is more than `MOST_ASPECT` times the other.
    """
    shorter, longer = sorted(image.shape[1:])
    if longer > MOST_ASPECT * shorter:
        raise ValueError(
            f"The image has {image.shape[2]} x {image.shape[1]} pixels, but a longer side of at most {MOST_ASPECT} "
            "times the shorter one is expected; crop it."
        )
    return image


def clip_pixels(image: Tensor) -> Tensor:
    """[3, H, W] 0..1 -> [3, 224, 224] as CLIP's own transform makes it, with Pillow and 8 bits.

    Raises:
        ValueError: see `check_aspect`.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    picture = transforms.to_pil_image((check_aspect(image) * 255).round().to(torch.uint8))
    picture = transforms.center_crop(transforms.resize(picture, SIZE, InterpolationMode.BICUBIC), SIZE)
    return transforms.normalize(transforms.to_tensor(picture), MEAN, STD)
