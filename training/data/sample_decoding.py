"""Members of a sample, as `shard_format.Sample` encodes them, back to values; each is checked and bounded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sounding.images.decoding import open_image

from .shard_format import SAMPLE_RATE, parse_json

MOST_SECONDS = 3600  # of a sound
MOST_PIXELS = 1 << 28  # of all images of a sample; ten frames of 25 megapixels


def decode_description(data: bytes) -> dict[str, Any]:
    """JSON of a sample's id, captions, licence, source, seconds, labels and sounding.

    Raises:
        ValueError: not as `Sample` writes it.
    """
    described = parse_json(data)
    kinds: dict[str, tuple[type, ...]] = {"id": (str,), "licence": (str,), "source": (str,), "seconds": (int, float)}
    lists: dict[str, type] = {"captions": str, "labels": int, "sounding": int}
    if not isinstance(described, dict):
        raise ValueError("its description is no object")
    for name, value in described.items():
        fine = isinstance(value, kinds[name]) if name in kinds else name not in lists or isinstance(value, list)
        if not fine or (name in lists and not all(type(one) is lists[name] for one in value)):
            raise ValueError(f"the {name} of its description is of another kind than expected")
    return described


def decode_flac(data: bytes) -> Tensor:
    """Mono FLAC at 16 kHz -> [samples] float32.

    Raises:
        ValueError: another rate, several channels, or hours of it.
    """
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.samplerate != SAMPLE_RATE or file.channels != 1:
            raise ValueError(
                f"its sound has {file.channels} channels at {file.samplerate} Hz, but mono at {SAMPLE_RATE} is expected"
            )
        waveform = file.read(min(file.frames, MOST_SECONDS * SAMPLE_RATE + 1), dtype="float32")
    if len(waveform) > MOST_SECONDS * SAMPLE_RATE:
        raise ValueError(f"its sound is longer than {MOST_SECONDS} s")
    return torch.from_numpy(waveform)


def decode_images(files: list[bytes], mode: str) -> Tensor:
    """Files of images of one size -> [N, H, W, 3] (mode RGB) or [N, H, W] (mode L) uint8.

    Raises:
        ValueError: damaged files, or too many pixels together.
    """
    pictures: list[Tensor] = []
    for data in files:
        picture = open_image(io.BytesIO(data), "One of its images").convert(mode)
        if picture.width * picture.height * len(files) > MOST_PIXELS:
            raise ValueError(f"its {len(files)} images have more than {MOST_PIXELS:,} pixels together")
        pictures.append(torch.from_numpy(np.array(picture)))
    return torch.stack(pictures)
