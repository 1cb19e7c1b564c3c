"""Checkpoints, configurations and other people's archives."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import safe_open

import sounding
from sounding.checkpoint import CONFIG_KEY
from sounding.config import SegmenterConfig, SoundingConfig, from_dict
from sounding.segment import load_segmenter
from sounding.weights import WeightsError
from sounding.weights.reading import read_state

from .mutations import as_json, damaged, mutated
from .sandbox import Case, try_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes, and how they are watched")


def test_configurations(rounds: int, folder: Path, tiny_config: SoundingConfig) -> None:
    full = [json.loads(SoundingConfig(segmenter=SegmenterConfig()).to_json()), json.loads(tiny_config.to_json())]

    def make(draw: random.Random, folder: Path) -> Case:
        data = mutated(draw, draw.choice(full))
        text = as_json(draw, data)
        if draw.random() < 0.3:  # as recipes have it
            return lambda: from_dict(SoundingConfig, data, "model.")
        return lambda: SoundingConfig.from_json(text).to_json()

    try_inputs("configurations", 3 * rounds, folder, make)


def test_checkpoints(rounds: int, folder: Path, tiny_checkpoint: Path) -> None:
    sounding.load(tiny_checkpoint, device="cpu")
    data = tiny_checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    with safe_open(tiny_checkpoint, framework="pt") as file:
        config = json.loads(file.metadata()[CONFIG_KEY])

    def make(draw: random.Random, folder: Path) -> Case:
        bad = folder / draw.choice(("bad.safetensors", "BAD.SAFETENSORS"))
        how = draw.random()
        if how < 0.6:  # a configuration that the tensors do not follow
            fields = json.loads(header)
            fields["__metadata__"][CONFIG_KEY] = as_json(draw, mutated(draw, config))
            text = json.dumps(fields).encode()
        elif how < 0.8:
            text = as_json(draw, mutated(draw, json.loads(header))).encode()
        else:
            text = damaged(draw, header)
        said = len(text) if draw.random() < 0.95 else draw.choice((0, 1, 2**31, 2**63, max(0, len(text) - 1)))
        bad.write_bytes(struct.pack("<Q", said) + text + body)

        def load() -> None:
            model = sounding.load(bad, device="cpu")
            model.generate(image=torch.rand(1, 16, 16, 3), seconds=0.1, steps=1, mask=torch.ones(1, 16, 16))

        return load

    try_inputs("checkpoints", rounds, folder, make)


def pickles(draw: random.Random) -> bytes:
    """A checkpoint's pickle with foreign objects in it, or with nonsensical instructions."""
    value = OrderedDict(w=[1, 2.5, "x", None, (1, (2, 3))], state_dict={"a": {"b": b"bytes"}}, n=numpy.float64(1))
    data = pickle.dumps(value, protocol=draw.choice((2, 3, 4, 5)))
    if draw.random() < 0.5:
        return damaged(draw, data)
    codes = (
        b")}](tq\x00h\x00\x86\x85\x87eu0N\x88K\x01Rb.\x8fcos\nsystem\nctorch\nload\nccollections\nOrderedDict\n\x93\x94"
    )
    pieces = [codes[i : i + 1] for i in range(len(codes))] + [
        b"q\x00",
        b"h\x00",
        b"h\x00h\x00\x86q\x00" * 64,
        b"}(",
        b"u",
    ]
    return b"\x80\x02" + b"".join(draw.choice(pieces) for _ in range(draw.choice((5, 40, 400)))) + b"."


def test_archives(rounds: int, folder: Path) -> None:
    saved = {}
    for new in (True, False):
        file = io.BytesIO()
        weights = {"a": torch.randn(3, 4), "b": torch.arange(3), "image_encoder.pos_embed": torch.zeros(1, 2, 2, 4)}
        torch.save({"state_dict": weights, "epoch": 3}, file, _use_new_zipfile_serialization=new)
        saved[new] = file.getvalue()
    with zipfile.ZipFile(io.BytesIO(saved[True])) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def make(draw: random.Random, folder: Path) -> Case:
        bad = folder / draw.choice(("bad.pth", "sam_vit_b_01ec64.pth", "bad.ckpt", "bad.bin", "bad.pt"))
        how = draw.random()
        if how < 0.3:
            bad.write_bytes(damaged(draw, saved[draw.random() < 0.5]))
        elif how < 0.4:
            bad.write_bytes(pickles(draw))
        else:
            with zipfile.ZipFile(bad, "w", draw.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))) as archive:
                for name, data in parts.items():
                    if name.endswith("data.pkl"):
                        data = pickles(draw) if draw.random() < 0.5 else damaged(draw, data)
                    archive.writestr(name, data if draw.random() < 0.97 else damaged(draw, data))
        if draw.random() < 0.3:
            return lambda: load_segmenter(bad)
        return lambda: {name: value.float().sum() for name, value in read_state(bad).items()}

    try_inputs("archives", 3 * rounds, folder, make, (WeightsError,))
