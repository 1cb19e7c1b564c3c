"""Nobody's random numbers move on because a model, a segmenter or a conversion was made."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sounding
from sounding.config import PatchConfig, QueryConfig, SegmenterConfig, SoundingConfig
from sounding.model import SoundingModel
from sounding.networks.meta import PrivateGenerator
from sounding.segment import load_segmenter

from ..tiny_sams import tiny_sam1

ROOT = Path(__file__).parents[2]


@contextmanager
def untouched() -> Iterator[None]:
    """The global generators are afterwards where they were."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_loading_draws_nothing(tiny_checkpoint: Path, tiny_config: SoundingConfig, tmp_path: Path) -> None:
    with_clicks = dataclasses.replace(tiny_config, segmenter=SegmenterConfig(side=64, widths=(8, 8, 8)))
    SoundingModel(with_clicks).save_pretrained(tmp_path / "clicks.safetensors")
    torch.save(tiny_sam1().state_dict(), tmp_path / "sam_vit_b.pth")
    with untouched():
        sounding.load(tiny_checkpoint, device="cpu")
        load_segmenter(tmp_path / "clicks.safetensors")
        load_segmenter(tmp_path / "sam_vit_b.pth")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patches": PatchConfig()},
        {"query": QueryConfig(layers=1, hidden=64, heads=1, width=16)},
        {"query": QueryConfig(tower="clap_audio", width=16, heads=1, hidden=8, depths=(1, 2))},
    ],
)
def test_a_generator_of_its_own_draws_what_the_seed_would(changes: dict, tiny_config: SoundingConfig) -> None:
    """So that converting with a seed gives the weights that it always gave."""
    config = dataclasses.replace(tiny_config, **changes)
    torch.manual_seed(5)
    expected = SoundingModel(config).state_dict()
    torch.manual_seed(6)
    with untouched(), PrivateGenerator(5):
        got = SoundingModel(config).state_dict()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_everything_that_draws_is_led_aside() -> None:
    with untouched(), PrivateGenerator(1):
        like = torch.zeros(50)
        drawn = [torch.rand(9), torch.randn(9), torch.randperm(9), torch.randint(9, (9,)), torch.normal(0.0, 1.0, (9,))]
        drawn += [like.uniform_(), like.normal_(), like.exponential_(), like.random_(), like.bernoulli_(0.5)]
        for fill in (
            nn.init.trunc_normal_,
            nn.init.normal_,
            nn.init.uniform_,
            nn.init.xavier_normal_,
            nn.init.orthogonal_,
        ):
            fill(torch.zeros(5, 5))
        nn.Linear(3, 4), nn.Conv2d(3, 4, 1), nn.Embedding(5, 6), nn.MultiheadAttention(8, 2), nn.LSTM(2, 3)
    assert all(value.numel() for value in drawn)


def test_a_segmenter_alone_stays_light() -> None:
    """A click with a SAM must not load compilers of torch's that nobody uses."""
    code = (
        "import sys, torch; from sounding.networks.meta import PrivateGenerator\n"
        "before = set(sys.modules)\n"
        "with PrivateGenerator(): torch.nn.Linear(2, 2)\n"
        "sys.exit(any(name.startswith(('torch._dynamo', 'torch._inductor')) for name in set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
