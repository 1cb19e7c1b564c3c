"""Click, box or words to a mask: an image is prepared once, then every prompt costs the decoder alone.

    segmenter, cache = load_segmenter("starter"), Cache()
    found = segmenter.segment(cache.prepare(segmenter, image), Prompt(positive=((120, 80),)))
    found.mask  # [H, W] 0..1

Backends: the small one in the box, SAM (Meta's files), SAM 2 and SAM 3 (transformers folders).
"""

from __future__ import annotations

from .base import Cache, Prepared, Segmentation, Segmenter
from .load import load_segmenter
from .prompt import Prompt

__all__ = ["Cache", "Prepared", "Prompt", "Segmentation", "Segmenter", "load_segmenter"]
