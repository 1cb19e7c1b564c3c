"""A small SAM 2 in a transformers folder, and an image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sounding.segment import Prompt

from ..tiny_sams import DECODER, randomise, tiny_sam2_vision

PROMPTS = {
    "one click": Prompt(positive=((20.0, 31.5),)),
    "clicks": Prompt(positive=((20.0, 31.5), (40.0, 10.0)), negative=((3.0, 3.0),)),
    "box": Prompt(box=(10.0, 8.0, 50.0, 40.0)),
    "box and clicks": Prompt(positive=((20.0, 31.5),), negative=((60.0, 3.0),), box=(10.0, 8.0, 50.0, 40.0)),
}


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """[1, 48, 72, 3], as from a file of 8 bits."""
    noise = torch.randint(0, 256, (1, 48, 72, 3), generator=torch.Generator().manual_seed(1))
    return noise.float() / 255


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    torch.manual_seed(4)
    config = Sam2Config(
        vision_config=tiny_sam2_vision(),
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config=DECODER,
    )
    folder = tmp_path_factory.mktemp("sam2-tiny")
    randomise(Sam2Model(config)).save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor(size={"height": 64, "width": 64})).save_pretrained(folder)
    return folder
